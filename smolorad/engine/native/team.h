/* Work on torch's own threads. Threads of our own would compete with them: both stay awake for a while after work. */
#ifndef SMOLORA_TEAM_H
#define SMOLORA_TEAM_H

/* How torch's OpenMP library runs its threads; Python finds the functions in the process. */
typedef struct {
    void (*parallel)(void (*work)(void *), void *context, unsigned threads, unsigned flags); /* GOMP_parallel */
    int (*thread)(void);  /* omp_get_thread_num */
    int (*threads)(void); /* omp_get_num_threads */
    unsigned wanted;
} Team;

typedef struct {
    const Team *team;
    void (*work)(void *context, int thread, int threads);
    void *context;
} TeamWork;

static void team_member(void *argument) {
    const TeamWork *w = argument;
    w->work(w->context, w->team->thread(), w->team->threads());
}

/* Runs `work` on every thread and returns when all are done. */
static inline void team_run(const Team *team, void (*work)(void *, int, int), void *context) {
    TeamWork w = {team, work, context};
    team->parallel(team_member, &w, team->wanted, 0);
}

#endif
