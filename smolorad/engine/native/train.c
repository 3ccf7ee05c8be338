/* What training computes, on a processor with the instructions for its numbers: called by Python, computed by torch's threads. */
#include "train_attention.h"
#include "train_products.h"
#include "train_rows.h"

#if defined(TRAINS)

/* Whether the rest of this file is there. */
int smolora_trains(void) { return 1; }

/* Some sums of products, each of which has the next of the terms. */
void smolora_products(const Team *team, Product *product, int count, const Term *term) {
    Products all = {product, count};
    for (int i = 0; i < count; term += product[i++].terms) product[i].term = term;
    team_run(team, products_part, &all);
}

void smolora_loss(const Team *team, const Loss *loss) { team_run(team, loss_part, (void *)loss); }

void smolora_norm(const Team *team, const Norm *norm) { team_run(team, norm->grad ? norm_back_part : norm_part, (void *)norm); }

void smolora_gates(const Team *team, const Gates *gates) { team_run(team, gates_part, (void *)gates); }

/* What a thread needs for texts of at most so many tokens, in bytes. */
size_t smolora_attention_room(const Attention *attention, int tokens) {
    Share share;
    size_t most = share_out(attention, tokens, NULL, &share);
    size_t least = share_out(attention, tokens < SHORT ? tokens : SHORT, NULL, &share);
    return most > least ? most : least;
}

void smolora_attention(const Team *team, const Attention *attention) {
    team_run(team, attention_part, (void *)attention);
    if (attention->grad && any_long(attention)) team_run(team, attention_back_part, (void *)attention);
}
#else
int smolora_trains(void) { return 0; }
#endif
