/* C: which number of θ each entry of θ_D takes, of kind `balanced`; all of P in integers (SPEC.md 2 to 4).
 *
 *     gcc -O2 -o balanced balanced.c -lm && ./balanced 36864 5760 42
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROUNDS = 6 };

static uint64_t D, a;
static uint32_t keys[ROUNDS];

static void make_keys(uint64_t state) { /* SPEC 2: the high halves of SplitMix64 */
    for (int k = 0; k < ROUNDS; k++) {
        uint64_t z = state += 0x9E3779B97F4A7C15u;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        keys[k] = (z ^ z >> 31) >> 32;
    }
}

static uint32_t mix(uint32_t x, uint32_t key) { /* SPEC 3 */
    x ^= key;
    x = (x ^ x >> 16) * 0x7FEB352Du;
    x = (x ^ x >> 15) * 0x297A2D39u;
    return x ^ x >> 16;
}

static uint64_t permuted(uint64_t x) { /* SPEC 4: again until it is below D */
    do {
        uint64_t L = x / a, R = x % a;
        for (int k = 0; k < ROUNDS; k++) {
            uint64_t f = mix((uint32_t)R, keys[k]) * a >> 32, next = (L + f) % a;
            L = R;
            R = next;
        }
        x = L * a + R;
    } while (x >= D);
    return x;
}

int main(int count, char **given) {
    if (count != 4) return fprintf(stderr, "usage: balanced D d SEED\n"), 2;
    D = strtoull(given[1], NULL, 10);
    uint64_t d = strtoull(given[2], NULL, 10);
    for (a = (uint64_t)sqrt((double)D); a * a < D; a++) {}
    make_keys(strtoull(given[3], NULL, 10));
    for (uint64_t i = 0; i < 8; i++) {
        uint64_t j = permuted(i) % d, n = D / d + (j < D % d); /* n rows share column j */
        printf("theta_D[%d] = theta[%d] * %.8g\n", (int)i, (int)j, (double)(float)(1 / sqrt((double)n)));
    }
}
