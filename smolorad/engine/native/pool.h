/* A pool of threads that compute a step together: within a step they spin at barriers, between steps they sleep. */
#ifndef SMOLORA_POOL_H
#define SMOLORA_POOL_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define RELAX() _mm_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ __volatile__("yield")
#else
#define RELAX() ((void)0)
#endif

enum { MAX_THREADS = 64, SPINS_BEFORE_YIELD = 2000, SPINS_BEFORE_SLEEP = 20000 };

typedef struct Pool Pool;
typedef void Work(void *context, int thread);

typedef struct {
    Pool *pool;
    int index;
    pthread_t thread;
} Member;

struct Pool {
    int threads;
    Member member[MAX_THREADS];
    Work *work;
    void *context;
    atomic_int arrived, phase, epoch, ending;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
};

/* Waits until all threads are here. */
static inline void barrier(Pool *p) {
    int phase = atomic_load_explicit(&p->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) + 1 == p->threads) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&p->phase, phase + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&p->phase, memory_order_acquire) == phase; spins++) {
        if (spins < SPINS_BEFORE_YIELD)
            RELAX();
        else
            sched_yield();
    }
}

/* One thread's part first..last-1 of `n` units, in whole blocks of `block`. */
static inline void split_work(const Pool *p, int thread, int n, int block, int *first, int *last) {
    int64_t blocks = (n + block - 1) / block;
    *first = (int)(blocks * thread / p->threads) * block;
    *last = (int)(blocks * (thread + 1) / p->threads) * block;
    if (*last > n) *last = n;
}

static void *member_main(void *argument) {
    Member *m = argument;
    Pool *p = m->pool;
    for (int seen = 0;;) {
        int spins = 0;
        while (atomic_load_explicit(&p->epoch, memory_order_acquire) == seen) {
            if (++spins < SPINS_BEFORE_SLEEP) {
                RELAX();
                continue;
            }
            pthread_mutex_lock(&p->mutex);
            while (atomic_load(&p->epoch) == seen) pthread_cond_wait(&p->wake, &p->mutex);
            pthread_mutex_unlock(&p->mutex);
        }
        seen = atomic_load(&p->epoch);
        if (atomic_load(&p->ending)) return NULL;
        p->work(p->context, m->index);
        barrier(p);
    }
}

static void pool_start(Pool *p) {
    pthread_mutex_lock(&p->mutex);
    atomic_fetch_add(&p->epoch, 1);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mutex);
}

/* Runs `work(context, thread)` on every thread, the caller's as number 0, and returns when all are done. */
static inline void pool_run(Pool *p, Work *work, void *context) {
    p->work = work, p->context = context;
    pool_start(p);
    work(context, 0);
    barrier(p);
}

static inline void pool_close(Pool *p) {
    atomic_store(&p->ending, 1);
    pool_start(p);
    for (int i = 1; i < p->threads; i++) pthread_join(p->member[i].thread, NULL);
    free(p);
}

/* NULL if the system refuses memory or threads. */
static inline Pool *pool_open(int threads) {
    Pool *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->wake, NULL);
    int wanted = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    for (p->threads = 1; p->threads < wanted; p->threads++) {
        Member *m = &p->member[p->threads];
        m->pool = p, m->index = p->threads;
        if (pthread_create(&m->thread, NULL, member_main, m)) {
            pool_close(p);
            return NULL;
        }
    }
    return p;
}

#endif
