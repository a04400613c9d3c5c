// What a GPU gives a kernel, on a CPU: blocks one after the other, and of a block each thread in its turn from one barrier to
// the next.

#include <math.h>
#include <string.h>
#include <ucontext.h>

#include <utility>

#define __device__
#define __global__
// Blocks do not run at the same time.
#define __shared__ static
#define __launch_bounds__(...)
#define __noinline__
#define __align__(bytes) __attribute__((aligned(bytes)))

static int min(int a, int b) { return a < b ? a : b; }
static int max(int a, int b) { return a > b ? a : b; }

static struct { int x; } threadIdx, blockIdx;

static ucontext_t between, threads[THREADS];
static int votes;
static unsigned long long lanes[THREADS];

// All threads come here as often.
static void __syncthreads() { swapcontext(&threads[threadIdx.x], &between); }

// The first thread is the first to go on, and nobody has been asked anew then.
static int __syncthreads_count(int own) {
    votes += own != 0;
    __syncthreads();
    const int all = votes;
    __syncthreads();
    if (threadIdx.x == 0) votes = 0;
    return all;
}

static int __syncthreads_or(int own) { return __syncthreads_count(own) > 0; }

// All threads of a block come here, not only those of a warp.
template <typename Number> static Number __shfl_xor_sync(unsigned, Number own, int far) {
    memcpy(&lanes[threadIdx.x], &own, sizeof own);
    __syncthreads();
    Number other;
    memcpy(&other, &lanes[threadIdx.x ^ far], sizeof other);
    __syncthreads();
    return other;
}

static int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz((unsigned)bits); }

template <typename Number> static Number atomicAdd(Number *to, Number more) { return std::exchange(*to, *to + more); }
static unsigned atomicOr(unsigned *to, unsigned more) { return std::exchange(*to, *to | more); }

static float __int_as_float(int bits) {
    float single;
    memcpy(&single, &bits, 4);
    return single;
}

static int __float_as_int(float single) {
    int bits;
    memcpy(&bits, &single, 4);
    return bits;
}

static float power_of_two(float x) { return exp2f(x); }

static float half_as_float(unsigned short bits) {
    const int sign = (bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) return __int_as_float(sign | 0x7f800000 | fraction << 13);
    const float size = ldexpf((float)(exponent > 0 ? fraction | 1024 : fraction), (exponent > 0 ? exponent : 1) - 25);
    return __int_as_float(sign | __float_as_int(size));
}

template <typename... Parameters, unsigned long... At>
static void call(void (*kernel)(Parameters...), void **arguments, std::index_sequence<At...>) {
    kernel(*static_cast<Parameters *>(arguments[At])...);
}

// What all threads of a block do, and how many of them are not done. Without a name outside: what has one, the linker makes
// one of in all libraries of a process, which run side by side.
namespace {
template <typename... Parameters> struct Block {
    static inline void (*kernel)(Parameters...);
    static inline void **arguments;
    static inline int running;

    static void thread() {
        call(kernel, arguments, std::index_sequence_for<Parameters...>());
        running--;
    }
};
} // namespace

template <typename... Parameters>
static void blocks_of(void (*kernel)(Parameters...), int blocks, void **arguments) {
    using Own = Block<Parameters...>;
    static char stacks[THREADS][65536];
    Own::kernel = kernel;
    Own::arguments = arguments;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
        for (int t = 0; t < THREADS; t++) {
            getcontext(&threads[t]);
            threads[t].uc_stack.ss_sp = stacks[t];
            threads[t].uc_stack.ss_size = sizeof stacks[t];
            threads[t].uc_link = &between;
            makecontext(&threads[t], Own::thread, 0);
        }
        for (Own::running = THREADS; Own::running > 0;) {
            for (threadIdx.x = 0; threadIdx.x < THREADS; threadIdx.x++) {
                swapcontext(&between, &threads[threadIdx.x]);
            }
        }
    }
}
