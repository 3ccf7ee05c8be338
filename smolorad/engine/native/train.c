/* Training: what Python calls, on a processor with the instructions for its numbers. Torch's threads compute it. docs/native.md
 * draws the layouts and explains the words. */
#include "struct_layout.h"
#include "train_attention.h"
#include "train_products.h"
#include "train_rows.h"

/* What Python mirrors, with the last field of each. */
const StructLayout *smolora_structs(void) {
    static const StructLayout layouts[] = {
        LAYOUT_OF(Team, wanted), LAYOUT_OF(Term, transposed), LAYOUT_OF(Product, term),    LAYOUT_OF(Loss, with_gradient),
        LAYOUT_OF(Norm, epsilon), LAYOUT_OF(Gates, count),    LAYOUT_OF(Attention, scale), {NULL, 0, 0},
    };
    return layouts;
}

#if defined(CAN_TRAIN)

/* Whether this processor has the instructions, and so the library the other calls. */
int smolora_trains(void) { return 1; }

/* Computes `count` sums of products; each has the next of the terms. */
void smolora_products(const Team *team, Product *product, int count, const Term *term) {
    Products all = {product, count};
    for (int i = 0; i < count; term += product[i++].terms) product[i].term = term;
    team_run(team, products_part, &all);
}

void smolora_loss(const Team *team, const Loss *loss) { team_run(team, loss_part, (void *)loss); }

void smolora_norm(const Team *team, const Norm *norm) { team_run(team, norm->grad ? norm_back_part : norm_part, (void *)norm); }

void smolora_gates(const Team *team, const Gates *gates) { team_run(team, gates_part, (void *)gates); }

/* The bytes of scratch that a thread needs for texts of at most `tokens` tokens. */
size_t smolora_attention_scratch(const Attention *attention, int tokens) {
    Scratch scratch;
    size_t most = divide_scratch(attention, tokens, NULL, &scratch);
    size_t least = divide_scratch(attention, tokens < SHORT_TEXT ? tokens : SHORT_TEXT, NULL, &scratch);
    return most > least ? most : least;
}

void smolora_attention(const Team *team, const Attention *attention) {
    team_run(team, attention_part, (void *)attention);
    if (attention->grad && any_long(attention)) team_run(team, attention_back_part, (void *)attention);
}
#else
int smolora_trains(void) { return 0; }
#endif
