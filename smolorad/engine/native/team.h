/* Work shared by torch's own threads: others beside them would be in their way, as both stay awake for a while after work. */
#ifndef SMOLORA_TEAM_H
#define SMOLORA_TEAM_H

/* How torch's OpenMP library runs its threads; given by whoever found it in the process. */
typedef struct {
    void (*parallel)(void (*work)(void *), void *what, unsigned threads, unsigned flags); /* GOMP_parallel */
    int (*thread)(void);  /* omp_get_thread_num */
    int (*threads)(void); /* omp_get_num_threads */
    unsigned wanted;
} Team;

typedef struct {
    const Team *team;
    void (*work)(void *what, int thread, int threads);
    void *what;
} TeamWork;

static void team_member(void *argument) {
    const TeamWork *w = argument;
    w->work(w->what, w->team->thread(), w->team->threads());
}

/* `work` by every thread; comes back when all are done. */
static inline void team_run(const Team *team, void (*work)(void *, int, int), void *what) {
    TeamWork w = {team, work, what};
    team->parallel(team_member, &w, team->wanted, 0);
}

#endif
