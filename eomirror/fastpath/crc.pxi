# CRC-32C (Castagnoli). The CPU's instruction where it has one, eight tables elsewhere; chosen when the module is loaded.
# The old formats' CRC-32 (zlib's) goes by tables everywhere.
#
# CRC is linear over GF(2): crc(a || b) = crc(a) * x^(8 len(b)) + crc(b) modulo the polynomial. So one pass over a
# payload serves any number of headers put before it, and three streams hide the instruction's latency of 3 cycles.

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    #define EO_POLY 0x82f63b78u
    #define EO_OLD_POLY 0xedb88320u

    static uint32_t eo_table[8][256];   /* eo_table[k][b]: the byte b followed by k zero bytes */
    static uint32_t eo_old_table[8][256];
    static uint32_t eo_powers[8][256];  /* eo_powers[k][i]: x^(8 * i * 256^k) */
    static int eo_use_instruction;

    /* a * b mod P in the reflected order, without a branch on the data */
    static uint32_t eo_multiply(uint32_t a, uint32_t b) {
        uint32_t product = 0;
        for (int i = 0; i < 32; i++) {
            product ^= b & (0u - (a >> 31));
            a <<= 1;
            b = (b >> 1) ^ (EO_POLY & (0u - (b & 1u)));
        }
        return product;
    }

    static uint32_t eo_power(uint64_t size) {
        uint32_t power = 0x80000000u;   /* x^0 */
        int started = 0;
        for (int k = 0; size; k++, size >>= 8) {
            uint32_t factor = eo_powers[k][size & 255];
            power = started ? eo_multiply(power, factor) : factor;
            started = 1;
        }
        return power;
    }

    static uint32_t eo_crc_by(uint32_t (*table)[256], uint32_t crc, const uint8_t *p, size_t n) {
        uint32_t c = ~crc;
        while (n >= 8) {
            c ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
            c = table[7][c & 255] ^ table[6][(c >> 8) & 255] ^ table[5][(c >> 16) & 255] ^ table[4][c >> 24]
              ^ table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
            p += 8;
            n -= 8;
        }
        while (n--) c = (c >> 8) ^ table[0][(c ^ *p++) & 255];
        return ~c;
    }

    static uint32_t eo_crc_table(uint32_t crc, const uint8_t *p, size_t n) { return eo_crc_by(eo_table, crc, p, n); }
    static uint32_t eo_old_crc(const uint8_t *p, size_t n) { return eo_crc_by(eo_old_table, 0, p, n); }

    #if defined(__x86_64__)
    #define EO_HAS_INSTRUCTION 1

    __attribute__((target("sse4.2")))
    static uint32_t eo_crc_instruction(uint32_t crc, const uint8_t *p, size_t n) {
        uint64_t a = (uint32_t)~crc, word;
        if (n >= 4096) {
            const size_t third = n / 24 * 8;
            const uint32_t power = eo_power(third);
            const uint8_t *q = p + third, *r = q + third, *stop = p + third;
            uint64_t b = 0, c = 0, w1, w2;
            for (; p < stop; p += 8, q += 8, r += 8) {
                memcpy(&word, p, 8);
                memcpy(&w1, q, 8);
                memcpy(&w2, r, 8);
                a = __builtin_ia32_crc32di(a, word);
                b = __builtin_ia32_crc32di(b, w1);
                c = __builtin_ia32_crc32di(c, w2);
            }
            a = eo_multiply(eo_multiply((uint32_t)a, power) ^ (uint32_t)b, power) ^ (uint32_t)c;
            p = r;
            n -= 3 * third;
        }
        for (; n >= 8; p += 8, n -= 8) {
            memcpy(&word, p, 8);
            a = __builtin_ia32_crc32di(a, word);
        }
        uint32_t low = (uint32_t)a;
        while (n--) low = __builtin_ia32_crc32qi(low, *p++);
        return ~low;
    }

    static int eo_cpu_has_instruction(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("sse4.2") != 0;
    }
    #else
    static uint32_t eo_crc_instruction(uint32_t crc, const uint8_t *p, size_t n) { return eo_crc_table(crc, p, n); }
    static int eo_cpu_has_instruction(void) { return 0; }
    #endif

    static uint32_t eo_crc(uint32_t crc, const uint8_t *p, size_t n) {
        return eo_use_instruction ? eo_crc_instruction(crc, p, n) : eo_crc_table(crc, p, n);
    }

    static void eo_fill(uint32_t (*table)[256], uint32_t poly) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int bit = 0; bit < 8; bit++) c = (c >> 1) ^ (poly & (0u - (c & 1u)));
            table[0][i] = c;
        }
        for (int k = 1; k < 8; k++)
            for (int i = 0; i < 256; i++) {
                uint32_t c = table[k - 1][i];
                table[k][i] = (c >> 8) ^ table[0][c & 255];
            }
    }

    static void eo_crc_init(int forbid_instruction) {
        eo_fill(eo_table, EO_POLY);
        eo_fill(eo_old_table, EO_OLD_POLY);
        uint32_t step = 0x80000000u >> 8;   /* x^8 */
        for (int k = 0; k < 8; k++) {
            eo_powers[k][0] = 0x80000000u;
            for (int i = 1; i < 256; i++) eo_powers[k][i] = eo_multiply(eo_powers[k][i - 1], step);
            step = eo_multiply(eo_powers[k][255], step);
        }
        eo_use_instruction = !forbid_instruction && eo_cpu_has_instruction();
    }
    """
    uint32_t eo_multiply(uint32_t a, uint32_t b) noexcept nogil
    uint32_t eo_power(uint64_t size) noexcept nogil
    uint32_t eo_crc(uint32_t crc, const uint8_t *p, size_t n) noexcept nogil
    uint32_t eo_crc_table(uint32_t crc, const uint8_t *p, size_t n) noexcept nogil
    uint32_t eo_old_crc(const uint8_t *p, size_t n) noexcept nogil
    void eo_crc_init(int forbid_instruction) noexcept
    int eo_use_instruction


cdef uint32_t crc_update(uint32_t crc, const uint8_t *data, size_t size) noexcept nogil:
    return eo_crc(crc, data, size)


cdef uint32_t crc_power(uint64_t size) noexcept nogil:
    return eo_power(size)


cdef uint32_t crc_append(uint32_t crc_a, uint32_t power_b, uint32_t crc_b) noexcept nogil:
    return eo_multiply(crc_a, power_b) ^ crc_b


cdef _choose_crc():
    cdef str choice = os.environ.get("EOMIRROR_CRC32C", "")
    if choice not in ("", "auto", "table"):
        raise ImportError(f"EOMIRROR_CRC32C: {choice!r} is neither auto nor table")
    eo_crc_init(choice == "table")


_choose_crc()


def crc32c(data, uint32_t crc=0):
    """CRC-32C of data; crc is the value of the bytes before it."""
    cdef const uint8_t[::1] view = data
    cdef size_t size = view.shape[0]
    if size == 0:
        return crc
    cdef const uint8_t *start = &view[0]
    cdef uint32_t value
    if size >= GIL_BYTES:
        with nogil:
            value = eo_crc(crc, start, size)
        return value
    return eo_crc(crc, start, size)


def crc32c_table(data, uint32_t crc=0):
    """What crc32c returns, by the portable tables."""
    cdef const uint8_t[::1] view = data
    if view.shape[0] == 0:
        return crc
    return eo_crc_table(crc, &view[0], view.shape[0])


def crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t len_b):
    """CRC-32C of a || b from those of a and b."""
    return crc_append(crc_a, eo_power(len_b), crc_b)


def crc32c_implementation():
    """What crc32c runs on: "sse4.2" or "table"."""
    return "sse4.2" if eo_use_instruction else "table"
