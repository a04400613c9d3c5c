// Head and tail sums of rows of logits, each read once, and a part of it before: a block for each row.
//
// Defined from outside, beside what numbers.cuh needs: K, classes of a head; TAIL, 1 where there are more; NODES, and POWERS,
// 1 where they are the first one times 1, 2, 4, 6 and 8; NODE_LIST.
//
// What is larger than a bound is kept, all else goes into the sums at once, relative to the bound. Where more is kept than
// there is room for, the bound rises. The first bound is just below the K + TAIL largest of what threads find as their
// largest in a part of the row: as many logits reach it.

#define WANT (K + TAIL)
// Vectors that a thread reads between two looks at how much is kept.
#define ABREAST (8 / PER)
#define TILE (8 * THREADS)
#define ROOM (TILE + WANT + THREADS)
// What is kept in the end is ranked by counting where it is no more than this.
#define FEW (WANT > 128 ? WANT : 128)
// Tiles that the first bound is of: more where more is wanted, and where looking is cheaper than keeping in vain.
#define SAMPLED ((WANT > 32 ? 8 : 4) * (TYPE == 0 ? 1 : 2))
// On a multiprocessor at once, which bounds how many registers a thread has: fewer were measured to be slower, as more are.
#define BLOCKS (THREADS > 32 ? 1280 / THREADS : 32)
// The lowest bit in which two logits differ, as they are ordered.
#define LOWEST (TYPE == 0 ? 0 : TYPE == 1 ? 13 : 16)
// What falls below a bound that rises is summed in whole units, in which it does not matter who comes first.
#define UNITS 1099511627776.0f

__device__ static const double NODE[NODES > 0 ? NODES : 1] = {NODE_LIST};

// Larger for a larger logit.
__device__ inline u32 ordered(float z) {
    const u32 bits = (u32)__float_as_int(z);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline float in_order(u32 ordered) {
    return __int_as_float((int)(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered));
}

// Larger for a larger logit, and of equal ones for the smaller class. Of the two zeros neither is the larger.
__device__ inline u64 key_of(float z, int id) { return (u64)ordered(z + 0.0f) << 32 | (u32)~id; }

__device__ inline float logit_of(u64 key) { return in_order((u32)(key >> 32)); }

__device__ inline int id_of(u64 key) { return (int)~(u32)key; }

struct Tail {
    float reference;
    float sums[NODES > 0 ? NODES : 1];

    // exp(node (z - reference)) of all nodes.
    __device__ void powers(float z, float (&e)[NODES > 0 ? NODES : 1]) const {
#if POWERS
        e[0] = power_of_two((z - reference) * (float)(NODE[0] * LOG2_E));
        e[1] = e[0] * e[0];
        e[2] = e[1] * e[1];
        e[3] = e[2] * e[1];
        e[4] = e[2] * e[2];
#else
#pragma unroll
        for (int n = 0; n < NODES; n++) e[n] = power_of_two((z - reference) * (float)(NODE[n] * LOG2_E));
#endif
    }

    __device__ void add(float z) {
        float e[NODES > 0 ? NODES : 1];
        powers(z, e);
#pragma unroll
        for (int n = 0; n < NODES; n++) sums[n] += e[n];
    }

    // What entered all sums as `e`.
    __device__ void take_back(float e) {
#pragma unroll
        for (int n = 0; n < NODES; n++) sums[n] -= e;
    }

    // All sums relative to what is at least as large.
    __device__ void raise(float to) {
#pragma unroll
        for (int n = 0; n < NODES; n++) {
            // Of what nothing has been added to, it may be infinitely far.
            if (sums[n] > 0.0f) sums[n] *= power_of_two((reference - to) * (float)(NODE[n] * LOG2_E));
        }
        reference = to;
    }
};

// What the threads of a block share.
struct Shared {
    u64 kept[ROOM];
    u64 left[FEW];
    u64 fallen[NODES > 0 ? NODES : 1];
    u32 count, places, bad;
};

// The WANT-th largest of `n` keys, of classes below `classes`, as far as its bits from the `from`-th down to `to` go, where `known`
// are those above: bit by bit, as many as reach it.
__device__ inline u64 wanted_one(const u64 *keys, int n, u64 known, int from, int to) {
#pragma unroll 1
    for (int bit = from; bit >= to; bit--) {
        const u64 next = known | (u64)1 << bit;
        int reach = 0;
#pragma unroll 1
        for (int first = 0; first < n && reach < WANT; first += THREADS) {
            const int i = first + threadIdx.x;
            reach += __syncthreads_count(i < n && keys[i] >= next);
        }
        if (reach >= WANT) known = next;
    }
    return known;
}

// Leaves the WANT largest of what is kept; the others are added to `tail`, relative to the last of those.
__device__ inline void leave_the_largest(Shared &shared, int classes, Tail &tail) {
    const int t = threadIdx.x, n = shared.count;
    u64 least = wanted_one(shared.kept, n, 0, 63, 32 + LOWEST);
    // Below are zeros, of negative logits ones; ids are upside down, so that above them are ones.
    if (least >> 63 == 0) least |= (u64)((1u << LOWEST) - 1) << 32;
    const int bits = 32 - __clz(classes);
    least = wanted_one(shared.kept, n, least | (~(u64)0 << bits & 0xffffffffu), bits - 1, 0);
    tail.raise(logit_of(least));
    u64 fallen[NODES > 0 ? NODES : 1] = {};
#pragma unroll 1
    for (int i = t; i < n; i += THREADS) {
        const u64 key = shared.kept[i];
        if (key >= least) {
            shared.left[atomicAdd(&shared.places, 1u)] = key;
        } else {
            float e[NODES > 0 ? NODES : 1];
            tail.powers(logit_of(key), e);
#pragma unroll
            for (int n = 0; n < NODES; n++) fallen[n] += (u64)(e[n] * UNITS);
        }
    }
#pragma unroll
    for (int n = 0; n < NODES; n++) {
#pragma unroll
        for (int far = 16; far > 0; far /= 2) fallen[n] += __shfl_xor_sync(0xffffffffu, fallen[n], far);
        if (t % 32 == 0 && fallen[n] != 0) atomicAdd(&shared.fallen[n], fallen[n]);
    }
    __syncthreads();
    for (int i = t; i < WANT; i += THREADS) shared.kept[i] = shared.left[i];
    if (t == 0) {
#pragma unroll
        for (int n = 0; n < NODES; n++) {
            tail.sums[n] += (float)shared.fallen[n] / UNITS;
            shared.fallen[n] = 0;
        }
        shared.count = WANT, shared.places = 0;
    }
    __syncthreads();
}

// In columns, of 32 bits each: classes of the K largest, in order, [rows, K]; their logits relative to the largest, [rows, K]; the
// logarithms of the sums of exp(node (z - largest)) over all others, [rows, NODES]; the largest, [rows]; whether a logit is not
// finite, [rows].
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
select_rows(const Element *__restrict__ logits, int rows, int classes, int stride, u32 *__restrict__ out) {
    __shared__ Shared shared;
    const int t = threadIdx.x;
    const Element *row = logits + (i64)blockIdx.x * stride;
    const int vectors = classes / PER;

    float largest = -INFINITE;
    // Tiles from all over the row, which may rise or fall.
    const int step = max(vectors / SAMPLED, ABREAST * THREADS);
#pragma unroll
    for (int sample = 0; sample < SAMPLED; sample += 4) {
        Vector some[4][ABREAST];
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int a = 0; a < ABREAST; a++) {
                const int v = (sample + i) * step + a * THREADS + t;
                if (v < vectors) load(row + (i64)v * PER, some[i][a]);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int a = 0; a < ABREAST; a++) {
                if ((sample + i) * step + a * THREADS + t >= vectors) continue;
#pragma unroll
                for (int e = 0; e < PER; e++) largest = fmaxf(largest, some[i][a].at(e));
            }
        }
    }
    if (t == 0) shared.count = shared.places = shared.bad = 0;
    if (t < NODES) shared.fallen[t] = 0;
    const u32 own = ordered(largest + 0.0f);
    u32 bound = 0;
    // What the other bits would keep out is less than a 512th of the bound below it.
#pragma unroll 1
    for (int bit = 31; bit >= 14; bit--) {
        const u32 next = bound | 1u << bit;
        if (__syncthreads_count(own >= next) >= WANT) bound = next;
    }

    // What is larger than the floor is kept, and enters the sums as if it were the floor before it is taken back. Where no bound
    // is known everything is kept, and all that enters is 0.
    const bool known = bound > ordered(-INFINITE) + 1;
    float floor = known ? in_order(bound - 1 - (bound == 0x80000000u)) : -INFINITE;
    float of_floor = known ? 1.0f : 0.0f;
    Tail tail;
    tail.reference = known ? floor : 0.0f;
#pragma unroll
    for (int n = 0; n < NODES; n++) tail.sums[n] = 0.0f;
    // Not a number once there was one that is not finite.
    float nothing = 0.0f;
    Vector ahead[ABREAST];
#pragma unroll
    for (int a = 0; a < ABREAST; a++) {
        if (t + a * THREADS < vectors) load(row + (i64)(t + a * THREADS) * PER, ahead[a]);
    }
    for (int first = t; first - t < vectors; first += ABREAST * THREADS) {
        float z[ABREAST][PER];
#pragma unroll
        for (int a = 0; a < ABREAST; a++) {
#pragma unroll
            for (int e = 0; e < PER; e++) z[a][e] = ahead[a].at(e);
            const int next = first + (ABREAST + a) * THREADS;
            if (next < vectors) load(row + (i64)next * PER, ahead[a]);
        }
        largest = -INFINITE;
        bool full = false;
#pragma unroll
        for (int a = 0; a < ABREAST; a++) {
            if (first + a * THREADS >= vectors) continue;
#pragma unroll
            for (int e = 0; e < PER; e++) {
                nothing = fmaf(z[a][e], 0.0f, nothing);
                largest = fmaxf(largest, z[a][e]);
                tail.add(fminf(z[a][e], floor));
            }
        }
        if (largest > floor) {
#pragma unroll
            for (int a = 0; a < ABREAST; a++) {
                if (first + a * THREADS >= vectors) continue;
#pragma unroll
                for (int e = 0; e < PER; e++) {
                    if (!(z[a][e] > floor)) continue;
                    tail.take_back(of_floor);
                    const u32 place = atomicAdd(&shared.count, 1u);
                    shared.kept[place] = key_of(z[a][e], (first + a * THREADS) * PER + e);
                    full |= place >= ROOM - TILE;
                }
            }
        }
        if (__syncthreads_or(full)) {
            leave_the_largest(shared, classes, tail);
            // What is equal and comes later is of a larger class.
            floor = tail.reference, of_floor = 1.0f;
        }
    }
    if (!(nothing == 0.0f)) shared.bad = 1;
    __syncthreads();
    if (shared.count > FEW) leave_the_largest(shared, classes, tail);
    const int n = shared.count;
    for (int i = t; i < n; i += THREADS) {
        const u64 key = shared.kept[i];
        int before = 0;
        for (int j = 0; j < n; j++) before += shared.kept[j] > key;
        shared.left[before] = key;
    }
    __syncthreads();
    tail.raise(logit_of(shared.left[WANT - 1]));
#pragma unroll 1
    for (int i = WANT + t; i < n; i += THREADS) tail.add(logit_of(shared.left[i]));

    const i64 at = blockIdx.x;
    const float largest_of_all = logit_of(shared.left[0]);
    u32 *const ids = out + at * K, *const values = out + (i64)rows * K + at * K;
    for (int i = t; i < K; i += THREADS) {
        ids[i] = (u32)id_of(shared.left[i]);
        values[i] = (u32)__float_as_int(logit_of(shared.left[i]) - largest_of_all);
    }
#if NODES > 0
    all<Sum>(tail.sums, reinterpret_cast<float *>(shared.kept));
    if (t == 0) {
        const double fall = (double)logit_of(shared.left[K]) - (double)largest_of_all;
        u32 *const curve = out + (i64)rows * 2 * K + at * NODES;
#pragma unroll
        for (int n = 0; n < NODES; n++) {
            // The largest of the tail itself is in no sum.
            const double sum = (double)(tail.sums[n] + 1.0f);
            curve[n] = (u32)__float_as_int((float)(NODE[n] * fall + log(sum)));
        }
    }
#endif
    if (t == 0) {
        u32 *const rest = out + (i64)rows * (2 * K + NODES) + at;
        rest[0] = (u32)__float_as_int(largest_of_all);
        rest[rows] = shared.bad;
    }
}
