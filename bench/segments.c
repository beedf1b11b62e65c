/* What the benchmark does to every record of a segment file, too slow in Python: filling source logs, and reading both
 * logs back for the check. Shares nothing with eomirror's kernel, so that it can testify about it.
 *
 * Built on demand and called through ctypes (segments.py). Sizes are bytes, offsets Kafka's, timestamps milliseconds.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER = 61, LENGTH_FROM = 12, CODEC = 7, TRANSACTIONAL = 16, CONTROL = 32, LZ4 = 3 };
/* What a walk ends with. */
enum { DONE = 0, COMPRESSED = 1, BROKEN = -1, DIFFERS = -2, NO_ROOM = -3 };

static uint16_t get16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }
static uint32_t get32(const uint8_t *at) { return (uint32_t)get16(at) << 16 | get16(at + 2); }
static uint64_t get64(const uint8_t *at) { return (uint64_t)get32(at) << 32 | get32(at + 4); }
static void put32(uint8_t *at, uint32_t value) { for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> (24 - 8 * i)); }
static void put64(uint8_t *at, uint64_t value) { for (int i = 0; i < 8; i++) at[i] = (uint8_t)(value >> (56 - 8 * i)); }

/* -- filling ----------------------------------------------------------------------------------------------------- */

static uint32_t table[256];

static uint32_t crc_by_table(const uint8_t *data, size_t size) {
    uint32_t crc = 0xFFFFFFFF;
    for (size_t i = 0; i < size; i++) crc = table[(crc ^ data[i]) & 255] ^ crc >> 8;
    return ~crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_by_instruction(const uint8_t *data, size_t size) {
    uint64_t crc = 0xFFFFFFFF, word;
    for (; size >= 8; size -= 8, data += 8) {
        memcpy(&word, data, 8);
        crc = __builtin_ia32_crc32di(crc, word);
    }
    for (; size; size--, data++) crc = __builtin_ia32_crc32qi((uint32_t)crc, *data);
    return ~(uint32_t)crc;
}
#endif

static uint32_t (*crc32c)(const uint8_t *, size_t) = crc_by_table;

__attribute__((constructor)) static void choose(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78 : 0);
        table[i] = crc;
    }
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2")) crc32c = crc_by_instruction;
#endif
}

/* A whole batch (magic 2) of which offset, timestamps and CRC are still to be written; `span` is its newest record's
 * timestamp delta. */
typedef struct {
    const uint8_t *bytes;
    uint32_t size;
    int32_t count;
    int32_t span;
} Template;

/* Writes batches into out[0:room] until the next one doesn't fit or `offset` reaches `stop`; returns the bytes written.
 * Batch n is template (first + n) % many, and the batch after it begins one millisecond after it ended: no two records
 * of a log have the same timestamp and template. */
size_t fill(uint8_t *out, size_t room, const Template *templates, int32_t many, int64_t first, int64_t *number,
            int64_t *offset, int64_t stop, int64_t *timestamp) {
    size_t used = 0;
    while (*offset < stop) {
        const Template *one = &templates[(first + *number) % many];
        if (used + one->size > room) break;
        uint8_t *batch = out + used;
        memcpy(batch, one->bytes, one->size);
        put64(batch, (uint64_t)*offset);
        put64(batch + 27, (uint64_t)*timestamp);
        put64(batch + 35, (uint64_t)(*timestamp + one->span));
        put32(batch + 17, crc32c(batch + 21, one->size - 21));
        used += one->size;
        *offset += one->count;
        *timestamp += one->span + 1;
        *number += 1;
    }
    return used;
}

/* -- reading: which transactions ended how ------------------------------------------------------------------------ */

typedef struct {
    int64_t offset;
    int64_t producer_id;
    int32_t epoch;
    int32_t commits;
} Marker;

typedef struct {
    int64_t producer_id;
    int64_t first; /* its first offset in the open transaction, -1 if none is open */
    int64_t next;  /* index of its next marker; the second walk's */
} Producer;

enum { PRODUCERS = 4096 };

typedef struct {
    Marker *markers;
    int64_t room;
    int64_t many;
    int64_t end;     /* offset after the last whole batch */
    int64_t batches; /* data batches */
    int64_t bytes;   /* of data batches */
    int32_t producers;
    Producer producer[PRODUCERS];
} Survey;

static Producer *known(Survey *survey, int64_t producer_id) {
    for (int32_t i = 0; i < survey->producers; i++)
        if (survey->producer[i].producer_id == producer_id) return &survey->producer[i];
    if (survey->producers == PRODUCERS) return NULL;
    Producer *one = &survey->producer[survey->producers++];
    one->producer_id = producer_id;
    one->first = -1;
    one->next = 0;
    return one;
}

/* The size of the whole batch at data[at], 0 if there is no whole one, -1 if that is no batch of magic 2. */
static int64_t batch_size(const uint8_t *data, size_t size, size_t at) {
    if (size - at < HEADER) return 0;
    uint32_t length = get32(data + at + 8);
    /* A preallocated file ends in zeros. */
    if (length == 0) return 0;
    if (data[at + 16] != 2 || length < HEADER - LENGTH_FROM) return -1;
    return size - at < LENGTH_FROM + (size_t)length ? 0 : LENGTH_FROM + (int64_t)length;
}

/* Walks one segment after the other of a partition. */
int survey(Survey *survey, const uint8_t *data, size_t size) {
    for (size_t at = 0; at < size;) {
        int64_t whole = batch_size(data, size, at);
        if (whole <= 0) return whole ? BROKEN : DONE;
        const uint8_t *batch = data + at;
        uint16_t attributes = get16(batch + 21);
        int64_t base = (int64_t)get64(batch), producer_id = (int64_t)get64(batch + 43);
        survey->end = base + (int32_t)get32(batch + 23) + 1;
        if (attributes & CONTROL) {
            /* length, attributes, timestamp delta, offset delta, key length: one byte each in a marker; then the key. */
            if (whole < HEADER + 9) return BROKEN;
            if (survey->many == survey->room) return NO_ROOM;
            Producer *one = known(survey, producer_id);
            if (!one) return NO_ROOM;
            one->first = -1;
            Marker *marker = &survey->markers[survey->many++];
            marker->offset = base;
            marker->producer_id = producer_id;
            marker->epoch = (int16_t)get16(batch + 51);
            marker->commits = get16(batch + HEADER + 7) == 1;
        } else {
            survey->batches++;
            survey->bytes += whole;
            if (attributes & TRANSACTIONAL) {
                Producer *one = known(survey, producer_id);
                if (!one) return NO_ROOM;
                if (one->first < 0) one->first = base;
            }
        }
        at += (size_t)whole;
    }
    return DONE;
}

/* The last stable offset after `survey`. */
int64_t stable(const Survey *survey) {
    int64_t found = survey->end;
    for (int32_t i = 0; i < survey->producers; i++)
        if (survey->producer[i].first >= 0 && survey->producer[i].first < found) found = survey->producer[i].first;
    return found;
}

/* -- reading: every committed record ------------------------------------------------------------------------------ */

typedef struct {
    Survey *survey;
    int64_t stable;
    uint64_t *hashes; /* one per record: written (the source), or compared with (the target) */
    int64_t room;
    int64_t many;     /* committed records met so far */
    int32_t compares;
    int32_t appended; /* size of the header that is added to each record before it is hashed; 0: none */
    const uint8_t *header;
    const int64_t *wanted; /* offsets, ascending; counts[i] becomes the number of committed records below wanted[i] */
    int64_t *counts;
    int64_t wants;
    int64_t answered;
    size_t at; /* where in this segment the walk stands */
    uint8_t *scratch;
    size_t scratch_size;
} Walk;

static const uint64_t PRIME = 0x9E3779B97F4A7C15;

static uint64_t mixed(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * PRIME;
    return hash ^ hash >> 29;
}

/* 64 bits that stand for a timestamp and the bytes of a record from its key's length on. */
uint64_t content(int64_t timestamp, const uint8_t *data, size_t size) {
    uint64_t a = mixed(PRIME, (uint64_t)timestamp), b = mixed(~PRIME, size), word[2];
    for (; size >= 16; size -= 16, data += 16) {
        memcpy(word, data, 16);
        a = mixed(a, word[0]);
        b = mixed(b, word[1]);
    }
    word[0] = word[1] = 0;
    memcpy(word, data, size);
    a = mixed(a, word[0]);
    b = mixed(b, word[1]);
    return mixed(mixed(a, b), b >> 32);
}

static int varint(const uint8_t *data, size_t size, size_t *at, int64_t *value) {
    uint64_t found = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (*at >= size) return 0;
        uint8_t byte = data[(*at)++];
        found |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) {
            *value = (int64_t)(found >> 1) ^ -(int64_t)(found & 1);
            return 1;
        }
    }
    return 0;
}

static size_t put_varint(uint8_t *out, int64_t value) {
    uint64_t left = (uint64_t)value << 1 ^ (uint64_t)(value >> 63);
    size_t size = 0;
    for (; left > 127; left >>= 7) out[size++] = (uint8_t)(left | 128);
    out[size++] = (uint8_t)left;
    return size;
}

static int room_for(Walk *walk, size_t size) {
    if (size <= walk->scratch_size) return 1;
    uint8_t *larger = realloc(walk->scratch, size * 2);
    if (!larger) return 0;
    walk->scratch = larger;
    walk->scratch_size = size * 2;
    return 1;
}

/* The content of a record that gets one more header behind its own. */
static int appended(Walk *walk, int64_t timestamp, const uint8_t *data, size_t size, uint64_t *hash) {
    size_t at = 0;
    int64_t length;
    for (int part = 0; part < 2; part++) {
        if (!varint(data, size, &at, &length)) return 0;
        if (length > 0) {
            if ((uint64_t)length > size - at) return 0;
            at += (size_t)length;
        }
    }
    size_t head = at;
    if (!varint(data, size, &at, &length)) return 0;
    if (!room_for(walk, size + (size_t)walk->appended + 10)) return 0;
    memcpy(walk->scratch, data, head);
    size_t used = head + put_varint(walk->scratch + head, length + 1);
    memcpy(walk->scratch + used, data + at, size - at);
    used += size - at;
    memcpy(walk->scratch + used, walk->header, (size_t)walk->appended);
    *hash = content(timestamp, walk->scratch, used + (size_t)walk->appended);
    return 1;
}

/* The records of one batch, unpacked. `batch` is its header. */
static int records(Walk *walk, const uint8_t *batch, const uint8_t *data, size_t size) {
    int64_t base = (int64_t)get64(batch + 27), stamp, delta, length;
    int32_t count = (int32_t)get32(batch + 57);
    size_t at = 0;
    for (int32_t i = 0; i < count; i++) {
        if (walk->many == walk->room) return walk->compares ? DIFFERS : NO_ROOM;
        if (!varint(data, size, &at, &length) || length < 0 || (uint64_t)length > size - at) return BROKEN;
        size_t end = at + (size_t)length;
        at++; /* attributes that are not used */
        if (!varint(data, end, &at, &stamp) || !varint(data, end, &at, &delta)) return BROKEN;
        uint64_t hash;
        if (!walk->appended) hash = content(base + stamp, data + at, end - at);
        else if (!appended(walk, base + stamp, data + at, end - at, &hash)) return BROKEN;
        if (!walk->compares) walk->hashes[walk->many] = hash;
        else if (walk->hashes[walk->many] != hash) return DIFFERS;
        walk->many++;
        at = end;
    }
    return at == size ? DONE : BROKEN;
}

/* Kafka's LZ4 frame into the scratch; its size, or -1. */
static int64_t unpacked(Walk *walk, const uint8_t *data, size_t size) {
    if (size < 7 || get32(data) != 0x04224D18) return -1;
    uint8_t flags = data[4];
    size_t at = 7 + (flags & 8 ? 8 : 0), used = 0;
    while (at + 4 <= size) {
        uint32_t word = (uint32_t)data[at] | (uint32_t)data[at + 1] << 8 | (uint32_t)data[at + 2] << 16 |
                        (uint32_t)data[at + 3] << 24;
        at += 4;
        if (word == 0) return (int64_t)used;
        size_t block = word & 0x7FFFFFFF, end = at + block;
        if (block > size - at) return -1;
        if (word >> 31) {
            if (!room_for(walk, used + block)) return -1;
            memcpy(walk->scratch + used, data + at, block);
            used += block;
        } else {
            if (!room_for(walk, used + (4 << 20))) return -1;
            size_t limit = used + (4 << 20);
            while (at < end) {
                uint8_t token = data[at++], more;
                size_t literals = token >> 4, match = token & 15;
                if (literals == 15) do {
                        if (at >= end) return -1;
                        literals += more = data[at++];
                    } while (more == 255);
                if (literals > end - at || literals > limit - used) return -1;
                memcpy(walk->scratch + used, data + at, literals);
                at += literals;
                used += literals;
                if (at == end) break;
                if (end - at < 2) return -1;
                size_t back = (size_t)data[at] | (size_t)data[at + 1] << 8;
                at += 2;
                if (match == 15) do {
                        if (at >= end) return -1;
                        match += more = data[at++];
                    } while (more == 255);
                match += 4;
                if (back == 0 || back > used || match > limit - used) return -1;
                for (; match; match--, used++) walk->scratch[used] = walk->scratch[used - back];
            }
        }
        at = end + (flags & 16 ? 4 : 0);
    }
    return -1;
}

/* Is a transactional batch committed? Each producer's markers are met in the order of its batches. */
static int committed(Walk *walk, int64_t base, int64_t producer_id) {
    Survey *survey = walk->survey;
    Producer *one = known(survey, producer_id);
    if (!one) return 0;
    while (one->next < survey->many) {
        const Marker *marker = &survey->markers[one->next];
        if (marker->producer_id == producer_id && marker->offset > base) return marker->commits;
        one->next++;
    }
    return 0;
}

/* Walks a segment from walk->at on. COMPRESSED: the payload of the batch there must be handed to `unpacked_batch`. */
int walk(Walk *walk, const uint8_t *data, size_t size) {
    while (walk->at < size) {
        int64_t whole = batch_size(data, size, walk->at);
        if (whole <= 0) return whole ? BROKEN : DONE;
        const uint8_t *batch = data + walk->at;
        int64_t base = (int64_t)get64(batch);
        uint16_t attributes = get16(batch + 21);
        while (walk->answered < walk->wants && walk->wanted[walk->answered] <= base)
            walk->counts[walk->answered++] = walk->many;
        if (base >= walk->stable) return DONE;
        int counts = !(attributes & CONTROL);
        if (counts && attributes & TRANSACTIONAL) counts = committed(walk, base, (int64_t)get64(batch + 43));
        if (counts) {
            const uint8_t *payload = batch + HEADER;
            size_t payload_size = (size_t)whole - HEADER;
            int codec = attributes & CODEC, result;
            if (codec == 0) result = records(walk, batch, payload, payload_size);
            else if (codec == LZ4 && !walk->appended) {
                int64_t found = unpacked(walk, payload, payload_size);
                result = found < 0 ? BROKEN : records(walk, batch, walk->scratch, (size_t)found);
            } else return COMPRESSED;
            if (result != DONE) return result;
        }
        walk->at += (size_t)whole;
    }
    return DONE;
}

/* Goes on behind the batch at data[walk->at], whose payload is unpacked in `payload`. */
int unpacked_batch(Walk *walk, const uint8_t *data, size_t size, const uint8_t *payload, size_t payload_size) {
    int64_t whole = batch_size(data, size, walk->at);
    if (whole <= 0) return BROKEN;
    int result = records(walk, data + walk->at, payload, payload_size);
    if (result == DONE) walk->at += (size_t)whole;
    return result;
}

/* Ends the walk: what was wanted beyond the last batch has all records below it. */
void finish(Walk *walk) {
    while (walk->answered < walk->wants) walk->counts[walk->answered++] = walk->many;
    free(walk->scratch);
    walk->scratch = NULL;
    walk->scratch_size = 0;
}

size_t survey_size(void) { return sizeof(Survey); }
