# Reading and writing bytes. A cursor's verbs check the bounds before they read, and move only when the read is whole.

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* Kafka's integers are big endian; written by shifts, which compilers turn into one load or store and a swap. */
    static inline int16_t eo_load16(const uint8_t *p) { return (int16_t)(uint16_t)(p[0] << 8 | p[1]); }
    static inline int32_t eo_load32(const uint8_t *p) {
        return (int32_t)((uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3]);
    }
    static inline int64_t eo_load64(const uint8_t *p) {
        return (int64_t)((uint64_t)(uint32_t)eo_load32(p) << 32 | (uint64_t)(uint32_t)eo_load32(p + 4));
    }
    static inline void eo_store16(uint8_t *p, uint16_t v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; }
    static inline void eo_store32(uint8_t *p, uint32_t v) {
        p[0] = (uint8_t)(v >> 24); p[1] = (uint8_t)(v >> 16); p[2] = (uint8_t)(v >> 8); p[3] = (uint8_t)v;
    }
    static inline void eo_store64(uint8_t *p, uint64_t v) {
        eo_store32(p, (uint32_t)(v >> 32)); eo_store32(p + 4, (uint32_t)v);
    }
    static inline int eo_add64(int64_t a, int64_t b, int64_t *out) { return __builtin_add_overflow(a, b, out); }
    static inline int eo_sub64(int64_t a, int64_t b, int64_t *out) { return __builtin_sub_overflow(a, b, out); }

    /* A bug that no build has unless it is asked for: `make sanitize` and `make fuzz` turn it on to prove that they
       would see one. */
    #ifdef EOMIRROR_PLANTED_OVERREAD
    #include <stdlib.h>
    static int eo_planted;
    __attribute__((constructor)) static void eo_plant(void) { eo_planted = getenv("EOMIRROR_PLANTED_OVERREAD") != 0; }
    #else
    #define eo_planted 0
    #endif
    """
    int eo_planted
    int16_t load16 "eo_load16"(const uint8_t *p) noexcept nogil
    int32_t load32 "eo_load32"(const uint8_t *p) noexcept nogil
    int64_t load64 "eo_load64"(const uint8_t *p) noexcept nogil
    void store16 "eo_store16"(uint8_t *p, uint16_t v) noexcept nogil
    void store32 "eo_store32"(uint8_t *p, uint32_t v) noexcept nogil
    void store64 "eo_store64"(uint8_t *p, uint64_t v) noexcept nogil
    bint add_overflows "eo_add64"(int64_t a, int64_t b, int64_t *out) noexcept nogil
    bint sub_overflows "eo_sub64"(int64_t a, int64_t b, int64_t *out) noexcept nogil


cdef Fault get_i16(Cursor *c, int16_t *out) noexcept nogil:
    if c.end - c.pos < 2:
        return ENDS_EARLY
    out[0] = load16(c.base + c.pos)
    c.pos += 2
    return FINE


cdef Fault get_i32(Cursor *c, int32_t *out) noexcept nogil:
    if c.end - c.pos < 4:
        return ENDS_EARLY
    out[0] = load32(c.base + c.pos)
    c.pos += 4
    return FINE


cdef Fault get_i64(Cursor *c, int64_t *out) noexcept nogil:
    if c.end - c.pos < 8:
        return ENDS_EARLY
    out[0] = load64(c.base + c.pos)
    c.pos += 8
    return FINE


cdef Fault get_uvarint(Cursor *c, uint32_t *out) noexcept nogil:
    """Unsigned varint of 1 to 5 bytes; the fifth has room for four bits."""
    cdef Py_ssize_t pos = c.pos
    cdef uint32_t byte, value = 0
    cdef int shift = 0
    while True:
        if pos >= c.end + eo_planted:
            return ENDS_EARLY
        byte = c.base[pos]
        pos += 1
        if shift == 28 and byte > 0x0F:
            return VARINT_OVERFLOW
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    c.pos = pos
    out[0] = value
    return FINE


cdef Fault get_varint(Cursor *c, int32_t *out) noexcept nogil:
    """Zigzag int32."""
    cdef uint32_t value
    cdef Fault fault = get_uvarint(c, &value)
    if fault:
        return fault
    out[0] = <int32_t>((value >> 1) ^ (0 - (value & 1)))
    return FINE


cdef Fault get_varlong(Cursor *c, int64_t *out) noexcept nogil:
    """Zigzag int64 of 1 to 10 bytes; the tenth has room for one bit."""
    cdef Py_ssize_t pos = c.pos
    cdef uint64_t byte, value = 0
    cdef int shift = 0
    while True:
        if pos >= c.end:
            return ENDS_EARLY
        byte = c.base[pos]
        pos += 1
        if shift == 63 and byte > 1:
            return VARINT_OVERFLOW
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    c.pos = pos
    out[0] = <int64_t>((value >> 1) ^ (0 - (value & 1)))
    return FINE


cdef Fault skip(Cursor *c, int64_t size) noexcept nogil:
    if size < 0:
        return BAD_LENGTH
    if c.end - c.pos < size:
        return ENDS_EARLY
    c.pos += <Py_ssize_t>size
    return FINE


cdef uint8_t *put_uvarint(uint8_t *out, uint64_t value) noexcept nogil:
    while value >= 0x80:
        out[0] = <uint8_t>(value | 0x80)
        out += 1
        value >>= 7
    out[0] = <uint8_t>value
    return out + 1


cdef uint8_t *put_varint(uint8_t *out, int32_t value) noexcept nogil:
    return put_uvarint(out, (<uint32_t>value << 1) ^ (0 - (<uint32_t>value >> 31)))


cdef uint8_t *put_varlong(uint8_t *out, int64_t value) noexcept nogil:
    return put_uvarint(out, (<uint64_t>value << 1) ^ (0 - (<uint64_t>value >> 63)))


cdef int uvarint_size(uint64_t value) noexcept nogil:
    cdef int size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef int varint_size(int32_t value) noexcept nogil:
    return uvarint_size(<uint32_t>((<uint32_t>value << 1) ^ (0 - (<uint32_t>value >> 31))))


cdef int varlong_size(int64_t value) noexcept nogil:
    return uvarint_size((<uint64_t>value << 1) ^ (0 - (<uint64_t>value >> 63)))
