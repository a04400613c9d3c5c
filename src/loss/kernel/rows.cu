// Divergence and cross-entropy of rows of logits, with their gradient: a block for ROWS rows, each read twice and its gradient
// written once.
//
// Defined from outside, beside what numbers.cuh needs: ROWS; KL, 1 where targets are given, of K classes in a head and NODES of
// a tail curve; SPREAD, where the mass off the head lies: 0 nowhere, 1 as log-weights of all classes and RANK directions say, 2
// in one outcome of its own; LABELS, 1 where labels are given; SOFTENED, 1 where the divergence's temperature is not 1; SMOOTHED, 1 where some of
// a label's mass lies evenly on all classes; WORDS, of 1,024 classes each.
//
// With q = softmax(beta s): KL = sum over the head of p (log p - log q) + m (log m + sum of u (log u - log q)) with the tail's
// mass m, spread as u over the classes off the head. The gradient by beta s is q - p.

#define TAIL (KL && SPREAD > 0)
#define OWN (LABELS && KL && SOFTENED)

__device__ inline float softened(float x, float beta) { return KL && SOFTENED ? beta * x : x; }

__device__ inline float natural(float x) { return power_of_two(x * (float)LOG2_E); }

// What exponentials are taken relative to: where all there is is infinitely small, nothing.
__device__ inline float finite(float largest) { return largest == -INFINITE ? 0.0f : largest; }

struct Row {
    // The largest s; sums of exp(beta (s - largest)), and without beta.
    float largest, sum, own_sum;
    // Of the tail's log-weights a; sums of exp(a - largest) times 1, a and beta s.
    float tail_largest, tail_sum, tail_a, tail_s;
    // Of s.
    float all;

    // The tail's sums relative to something else. 0 of what is infinite is 0.
    __device__ void of_tail(float factor) {
        const bool some = factor > 0.0f;
        tail_sum = some ? tail_sum * factor : 0.0f;
        tail_a = some ? tail_a * factor : 0.0f;
        tail_s = some ? tail_s * factor : 0.0f;
    }
};

// Of whatever was handed over, nothing beyond the rows is touched.
__device__ inline bool is_class(i64 id, int classes) { return id >= 0 && id < classes; }

// Whether a head may have one of the PER classes from `first` on: a bit stands for 32 classes, and few are set.
__device__ inline bool near_head(const u32 *heads, int first) { return heads[first >> 10] >> (first >> 5 & 31) & 1; }

// A bit for each of the PER classes from `first` on that the head has.
__device__ __noinline__ u32 of_head(const i64 *ids, int count, int first) {
    u32 found = 0;
#pragma unroll 1
    for (int i = 0; i < count; i++) {
        const i64 from_first = ids[i] - first;
        if (from_first >= 0 && from_first < PER) found |= 1u << from_first;
    }
    return found;
}

#if TAIL && SPREAD == 1
// Log-weights of PER classes from `first` on, of each row.
__device__ inline void log_weights(const float *log_w, const float *basis, const float (*codes)[ROWS],
                                   int classes, int first, float (&a)[ROWS][PER]) {
    Floats level;
    load(log_w + first, level);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int e = 0; e < PER; e++) a[r][e] = level.of[e];
    }
#pragma unroll 4
    for (int i = 0; i < RANK; i++) {
        Floats direction;
        load(basis + (i64)i * classes + first, direction);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int e = 0; e < PER; e++) a[r][e] += codes[i][r] * direction.of[e];
        }
    }
}
#endif

// Of each row: `of_kl`, in nats and without any factor, and `of_labels`, 0 where there is no label; `gradient`:
// of_kl_factor * KL + of_labels_factor * cross-entropy, by s.
extern "C" __global__ void __launch_bounds__(THREADS, ROWS == 1 ? 4 : 2)
loss_rows(const Element *__restrict__ logits, int rows, int classes, const i64 *__restrict__ ids,
          const float *__restrict__ values, const float *__restrict__ counts, const float *__restrict__ curve,
          const float *__restrict__ at_nodes, float at_zero, const float *__restrict__ codes_of_all,
          const float *__restrict__ log_w, const float *__restrict__ basis, const i64 *__restrict__ labels, float beta,
          float of_kl_factor, float of_labels_factor, float smoothing, float *__restrict__ of_kl,
          float *__restrict__ of_labels, float *__restrict__ gradient) {
    __shared__ float part[8 * ROWS * (THREADS / 32)];
#if TAIL
    __shared__ u32 heads[ROWS][WORDS];
    __shared__ float __align__(16) codes[SPREAD == 1 && RANK > 0 ? RANK : 1][ROWS];
#endif
    const int t = threadIdx.x;
    const int first_row = blockIdx.x * ROWS;
    const int here = min(ROWS, rows - first_row);
    const int vectors = classes / PER;
    // The last rows again where there are fewer: nothing of them is written.
    const Element *s[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) s[r] = logits + (i64)(first_row + min(r, here - 1)) * classes;

#if TAIL
    for (int word = t; word < ROWS * WORDS; word += THREADS) heads[word / WORDS][word % WORDS] = 0;
    __syncthreads();
    for (int i = t; i < here * K; i += THREADS) {
        const int r = i / K;
        const i64 id = ids[(i64)first_row * K + i];
        if (is_class(id, classes)) atomicOr(&heads[r][id >> 10], 1u << (id >> 5 & 31));
    }
#if SPREAD == 1 && RANK > 0
    for (int i = t; i < ROWS * RANK; i += THREADS) {
        codes[i % RANK][i / RANK] = codes_of_all[(i64)(first_row + min(i / RANK, here - 1)) * RANK + i % RANK];
    }
#endif
    __syncthreads();
#endif

    // How many classes the heads have; the logarithms of the tails' masses and of what all exponentials are divided by.
    int count[ROWS];
    const i64 *ids_of[ROWS];
    float log_tail[ROWS], log_all[ROWS];
#if KL
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const i64 at = first_row + min(r, here - 1);
        count[r] = counts != 0 ? min((int)counts[at], K) : K;
        ids_of[r] = ids + at * K;
        log_tail[r] = -INFINITE;
#if TAIL
        log_tail[r] = at_zero * logf((float)(classes - count[r]));
        for (int n = 0; n < NODES; n++) log_tail[r] += at_nodes[n] * curve[at * NODES + n];
#endif
        // The largest of a head is 0.
        const float level = fmaxf(log_tail[r], 0.0f);
        log_all[r] = t == 0 ? natural(log_tail[r] - level) : 0.0f;
        for (int i = t; i < count[r]; i += THREADS) log_all[r] += natural(beta * values[at * K + i] - level);
    }
    all<Sum>(log_all, part);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        log_all[r] = fmaxf(log_tail[r], 0.0f) + logf(log_all[r]);
        log_tail[r] -= log_all[r];
    }
#endif

    Row row[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) row[r] = {-INFINITE, 0, 0, -INFINITE, 0, 0, 0, 0};
    for (int v = t; v < vectors; v += THREADS) {
        const int first = v * PER;
#if TAIL
        float a[ROWS][PER];
#endif
#if TAIL && SPREAD == 1
        log_weights(log_w, basis, codes, classes, first, a);
#endif
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float z[PER], scaled[PER];
            load(s[r] + first, z);
            float largest = -INFINITE;
#pragma unroll
            for (int e = 0; e < PER; e++) {
                scaled[e] = softened(z[e], beta);
                largest = fmaxf(largest, z[e]);
            }
            if (largest > row[r].largest) {
                const float fall = row[r].largest - largest;
                row[r].sum *= natural(softened(fall, beta));
                if (OWN) row[r].own_sum *= natural(fall);
                row[r].largest = largest;
            }
            const float level = finite(row[r].largest);
#pragma unroll
            for (int e = 0; e < PER; e++) {
                row[r].sum += natural(softened(z[e] - level, beta));
                if (OWN) row[r].own_sum += natural(z[e] - level);
                if (LABELS && SMOOTHED) row[r].all += z[e];
            }
#if TAIL
            const u32 taken = near_head(heads[r], first) ? of_head(ids_of[r], count[r], first) : 0;
            float tail_largest = -INFINITE;
#pragma unroll
            for (int e = 0; e < PER; e++) {
                if (SPREAD == 2) a[r][e] = scaled[e];
                if (taken >> e & 1) a[r][e] = -INFINITE;
                tail_largest = fmaxf(tail_largest, a[r][e]);
            }
            if (tail_largest > row[r].tail_largest) {
                row[r].of_tail(natural(row[r].tail_largest - tail_largest));
                row[r].tail_largest = tail_largest;
            }
            const float tail_level = finite(row[r].tail_largest);
#pragma unroll
            for (int e = 0; e < PER; e++) {
                const float u = natural(a[r][e] - tail_level);
                // 0 of what is infinite is 0.
                if (u > 0.0f) row[r].tail_sum += u, row[r].tail_a += u * a[r][e], row[r].tail_s += u * scaled[e];
            }
#endif
        }
    }

    float largest[2 * ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) largest[2 * r] = row[r].largest, largest[2 * r + 1] = row[r].tail_largest;
    all<Largest>(largest, part);
    float sums[6 * ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const float fall = row[r].largest - finite(largest[2 * r]);
        row[r].of_tail(natural(row[r].tail_largest - finite(largest[2 * r + 1])));
        sums[6 * r] = row[r].sum * natural(softened(fall, beta));
        sums[6 * r + 1] = row[r].own_sum * natural(fall);
        sums[6 * r + 2] = row[r].tail_sum;
        sums[6 * r + 3] = row[r].tail_a;
        sums[6 * r + 4] = row[r].tail_s;
        sums[6 * r + 5] = row[r].all;
    }
    all<Sum>(sums, part);

    // Log-sums of beta (s - level), of s - level, and of the tail's log-weights; the tail's mass.
    float level[ROWS], log_sum[ROWS], own_log_sum[ROWS], tail_log_sum[ROWS], mass[ROWS];
    float on_head[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        level[r] = finite(largest[2 * r]);
        log_sum[r] = logf(sums[6 * r]);
        own_log_sum[r] = OWN ? logf(sums[6 * r + 1]) : log_sum[r];
        tail_log_sum[r] = mass[r] = 0.0f;
#if TAIL
        tail_log_sum[r] = finite(largest[2 * r + 1]) + logf(sums[6 * r + 2]);
        mass[r] = natural(log_tail[r]);
#endif
        on_head[r] = 0.0f;
#if KL
        const i64 at = first_row + min(r, here - 1);
        for (int i = t; i < count[r]; i += THREADS) {
            const float log_p = beta * values[at * K + i] - log_all[r];
            const i64 id = ids_of[r][i];
            if (!is_class(id, classes)) continue;
            const float log_q = softened(single(s[r][id]) - level[r], beta) - log_sum[r];
            const float p = natural(log_p);
            if (p > 0.0f) on_head[r] += p * (log_p - log_q);
        }
#endif
    }
    all<Sum>(on_head, part);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (t != 0 || r >= here) continue;
#if KL
        float kl = on_head[r];
#if TAIL
        if (mass[r] > 0.0f && sums[6 * r + 2] > 0.0f) {
            const float entropy = sums[6 * r + 3] / sums[6 * r + 2] - tail_log_sum[r];
            const float crossed = sums[6 * r + 4] / sums[6 * r + 2] - softened(level[r], beta) - log_sum[r];
            kl += mass[r] * (log_tail[r] + entropy - crossed);
        } else if (SPREAD == 2 && mass[r] > 0.0f) {
            kl = INFINITE;
        }
#endif
        of_kl[first_row + r] = kl;
#endif
#if LABELS
        const i64 label = labels[first_row + r];
        float against = 0.0f;
        if (is_class(label, classes)) {
            const float picked = (1.0f - smoothing) * (single(s[r][label]) - level[r]);
            against = own_log_sum[r] - picked;
            if (SMOOTHED) against -= smoothing * (sums[6 * r + 5] / classes - level[r]);
        }
        of_labels[first_row + r] = against;
#endif
    }

#if TAIL
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        // Where nothing off the head has any weight, there is nothing to spread the rest over.
        if (!(sums[6 * r + 2] > 0.0f)) mass[r] = tail_log_sum[r] = 0.0f;
    }
#endif
    const float scale = of_kl_factor * beta;
    float label_scale[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        label_scale[r] = 0.0f;
#if LABELS
        if (is_class(labels[first_row + min(r, here - 1)], classes)) label_scale[r] = of_labels_factor;
#endif
    }
    for (int v = t; v < vectors; v += THREADS) {
        const int first = v * PER;
#if TAIL
        float a[ROWS][PER];
#endif
#if TAIL && SPREAD == 1
        log_weights(log_w, basis, codes, classes, first, a);
#endif
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (r >= here) continue;
            float z[PER];
            Floats found;
            load(s[r] + first, z);
#if TAIL
            const u32 taken = near_head(heads[r], first) ? of_head(ids_of[r], count[r], first) : 0;
#endif
#pragma unroll
            for (int e = 0; e < PER; e++) {
                const float q = natural(softened(z[e] - level[r], beta) - log_sum[r]);
                float g = 0.0f;
                if (KL) g = scale * q;
#if TAIL
                if (SPREAD == 2) a[r][e] = softened(z[e], beta);
                if (!(taken >> e & 1)) g -= scale * mass[r] * natural(a[r][e] - tail_log_sum[r]);
#endif
                if (LABELS) {
                    g += label_scale[r] * ((OWN ? natural(z[e] - level[r] - own_log_sum[r]) : q) - (SMOOTHED ? smoothing / classes : 0.0f));
                }
                found.of[e] = g;
            }
            *reinterpret_cast<Floats *>(gradient + (i64)(first_row + r) * classes + first) = found;
        }
    }
    // What is written so far is all but the targets of single classes.
    __syncthreads();
#if KL
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (r >= here) continue;
        const i64 at = first_row + r;
        for (int i = t; i < count[r]; i += THREADS) {
            const i64 id = ids_of[r][i];
            if (is_class(id, classes)) {
                gradient[at * classes + id] -= scale * natural(beta * values[at * K + i] - log_all[r]);
            }
        }
    }
    __syncthreads();
#endif
#if LABELS
    if (t < here) {
        const i64 at = first_row + t, label = labels[at];
        if (is_class(label, classes)) gradient[at * classes + label] -= of_labels_factor * (1.0f - smoothing);
    }
#endif
}
