/* Coverage for libFuzzer from gcc, which calls one function per basic block (-fsanitize-coverage=trace-pc).
 *
 * libFuzzer wants a counter per edge. An edge is a pair of blocks that ran one after the other; each pair has its place
 * in a table of 2^16 counters, where two pairs seldom meet. Without a fuzzer in the process nothing is told to anybody.
 * This file is compiled without coverage of its own.
 */
#include <stddef.h>
#include <stdint.h>

#define EDGES 65536
#define OURS __attribute__((visibility("hidden")))

static uint8_t counters[EDGES];
static uintptr_t places[EDGES][2];  /* address, flags */
static uintptr_t previous;

__attribute__((weak)) void __sanitizer_cov_8bit_counters_init(uint8_t *start, uint8_t *stop);
__attribute__((weak)) void __sanitizer_cov_pcs_init(const uintptr_t *start, const uintptr_t *stop);

OURS void __sanitizer_cov_trace_pc(void) {
    uintptr_t here = ((uintptr_t)__builtin_return_address(0) - (uintptr_t)counters) * 0x9E3779B97F4A7C15u >> 48;
    counters[here ^ previous]++;
    previous = here >> 1;
}

OURS void __sanitizer_cov_trace_cmpf(float a, float b) { (void)a; (void)b; }
OURS void __sanitizer_cov_trace_cmpd(double a, double b) { (void)a; (void)b; }

__attribute__((constructor)) static void announce(void) {
    if (!__sanitizer_cov_8bit_counters_init || !__sanitizer_cov_pcs_init) return;
    for (size_t i = 0; i < EDGES; i++) places[i][0] = (uintptr_t)&counters[i];
    __sanitizer_cov_8bit_counters_init(counters, counters + EDGES);
    __sanitizer_cov_pcs_init(&places[0][0], &places[EDGES][0]);
}
