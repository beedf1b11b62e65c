# The runs of one partition, source and target: append at the end, binary search both ways.
#
# Runs are sealed by 64. A block holds three columns, each as wide as its last and largest number needs, and of no width
# where that is 0:
#
#     ends            records of the block up to the end of run i
#     source_skips    source offsets skipped in front of run i since the block began, less i times the least skip
#     target_skips    the same for target offsets
#
# So run i begins at base + ends[i - 1] + i * least + skips[i] on either side. Where transactions have some hundred
# records and one marker each, all skips are alike and a run takes two bytes.
#
# A lookup waits for memory, hardly for anything else. So no search branches on the data, which the processor could only
# guess; it goes through the first bases of all groups of 16 blocks, then a group, then a block. What will be needed is
# asked for as soon as it is known: the pages where the group's blocks begin and end with the group, a block's lines all
# at once.

cdef extern from *:
    """
    #include <stdint.h>
    #include <stdlib.h>
    #include <string.h>
    #if defined(__linux__)
    #include <sys/mman.h>
    #endif

    #define EO_HUGE (2u << 20)      /* bytes of a huge page */
    #define EO_LINE 64              /* bytes of a cache line */

    /* Eight bytes at any address, little endian; compilers make one load of it. */
    static inline uint64_t eo_load_le64(const uint8_t *p) {
        return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24
             | (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
    }

    static inline uint64_t eo_mask(size_t width) { return width ? ~UINT64_C(0) >> (64 - 8 * width) : 0; }

    static inline uint64_t eo_number(const uint8_t *column, size_t width, size_t i) {
        return eo_load_le64(column + i * width) & eo_mask(width);
    }

    /* Index of the last of n > 0 rising numbers that is at or below the value; 0 if none is. */
    static inline size_t eo_search(const int64_t *rising, size_t n, int64_t value) {
        const int64_t *low = rising;
        while (n > 1) {
            const size_t half = n / 2;
            low = low[half] <= value ? low + half : low;
            n -= half;
        }
        return (size_t)(low - rising);
    }

    /* The same in a block of 64: run i > 0 begins at ends[i - 1] + i * least + skips[i]. */
    static inline size_t eo_search_columns(
        const uint8_t *ends, size_t w, const uint8_t *skips, size_t v, uint64_t least, uint64_t value
    ) {
        size_t low = 0;
        for (size_t half = 32; half; half /= 2) {
            const size_t i = low + half;
            low += half & (0 - (size_t)(eo_number(ends, w, i - 1) + i * least + eo_number(skips, v, i) <= value));
        }
        return low;
    }

    /* The widths that most blocks have are written out, so that the compiler can make plain loads of them. */
    static inline size_t eo_search_block(
        const uint8_t *ends, size_t w, const uint8_t *skips, size_t v, uint64_t least, uint64_t value
    ) {
        if (w == 2 && v == 0) return eo_search_columns(ends, 2, skips, 0, least, value);
        if (w == 2 && v == 1) return eo_search_columns(ends, 2, skips, 1, least, value);
        if (w == 2 && v == 2) return eo_search_columns(ends, 2, skips, 2, least, value);
        return eo_search_columns(ends, w, skips, v, least, value);
    }

    static inline void eo_prefetch(const uint8_t *from, size_t lines) {
        while (lines--) __builtin_prefetch(from + lines * EO_LINE);
    }

    /* realloc to whole cache lines, in huge pages where the system has them: random lookups miss few of those. */
    static void *eo_grown(void *old, size_t old_size, size_t size) {
        const size_t unit = size >= EO_HUGE ? EO_HUGE : EO_LINE;
        void *moved = aligned_alloc(unit, (size + unit - 1) / unit * unit);
        if (!moved) return NULL;
    #if defined(__linux__)
        if (unit == EO_HUGE) madvise(moved, size, MADV_HUGEPAGE);
    #endif
        if (old_size) memcpy(moved, old, old_size);
        free(old);
        return moved;
    }
    """
    const Py_ssize_t EO_LINE
    uint64_t eo_number(const uint8_t *column, size_t width, size_t i) noexcept nogil
    size_t eo_search(const int64_t *rising, size_t n, int64_t value) noexcept nogil
    size_t eo_search_block(
        const uint8_t *ends, size_t w, const uint8_t *skips, size_t v, uint64_t least, uint64_t value
    ) noexcept nogil
    void eo_prefetch(const uint8_t *from_, size_t lines) noexcept nogil
    void *eo_grown(void *old, size_t old_size, size_t size) noexcept nogil

cdef enum:
    BLOCK_RUNS = 64
    GROUP_BLOCKS = 16
    GROUP_WORDS = 48            # of the directory: a group's source bases, target bases and places
    GROUP_ARRAYS = 3            # with one word per group: samples of both sides, first lines
    LOAD_BYTES = 8              # a column is read eight bytes at a time, so that many must follow the last one


@cython.final
cdef class OffsetMap:
    def __dealloc__(self):
        free(self.directory)
        free(self.source_samples)
        free(self.target_samples)
        free(self.group_lines)
        free(self.packed)

    def __len__(self):
        return self.blocks * BLOCK_RUNS + self.open

    def __repr__(self):
        return f"OffsetMap({len(self)} runs)"

    @property
    def nbytes(self):
        """Bytes of memory that it has asked for, with what is set aside for growth."""
        cdef Py_ssize_t words = (GROUP_WORDS + GROUP_ARRAYS) * self.group_room
        return object.__sizeof__(self) + words * <Py_ssize_t>sizeof(int64_t) + self.packed_room

    def append(self, int64_t source_first, int64_t target_first, int64_t count):
        """Add a run behind the last one; one that continues it on both sides is merged into it."""
        self.add(source_first, target_first, count)

    def extend(self, flat):
        """Add runs as the ledger writes them; those before a wrong one stay."""
        cdef Py_ssize_t i, size = len(flat)
        cdef int64_t source = 0, target = 0, source_skip, target_skip, count
        if size % 3:
            raise ValueError("runs end within a triple")
        for i in range(0, size, 3):
            source_skip, target_skip, count = flat[i], flat[i + 1], flat[i + 2]
            if source_skip < 0 or target_skip < 0 or count < 1:
                raise ValueError(f"not a run: {(source_skip, target_skip, count)}")
            if add_overflows(source, source_skip, &source) or add_overflows(target, target_skip, &target):
                raise ValueError(f"run {(source_skip, target_skip, count)} passes the last offset")
            self.add(source, target, count)
            source += count
            target += count

    cdef int add(self, int64_t source_first, int64_t target_first, int64_t count) except -1:
        cdef int64_t source_end = 0, target_end = 0, unused
        cdef Mapped *last = &self.tail[self.open - 1] if self.open else NULL
        if source_first < 0 or target_first < 0 or count <= 0:
            raise ValueError(f"run ({source_first}, {target_first}, {count}): offsets start at 0 and counts at 1")
        if add_overflows(source_first, count, &unused) or add_overflows(target_first, count, &unused):
            raise ValueError(f"run ({source_first}, {target_first}, {count}) passes the last offset")
        if last != NULL:
            source_end = last.source + last.count
            target_end = last.target + last.count
            if source_first < source_end or target_first < target_end:
                raise ValueError(
                    f"run ({source_first}, {target_first}, {count}) is not beyond the last one,"
                    f" which ends before ({source_end}, {target_end})"
                )
            if source_first == source_end and target_first == target_end:
                last.count += count
                return 0
        if self.open == BLOCK_RUNS:
            self.seal()
        self.tail[self.open] = Mapped(source_first, target_first, count)
        self.open += 1
        return 0

    cdef int seal(self) except -1:
        """Pack the full tail as one more block. The run that filled it could still grow until the next one came.

        Memory first, then what cannot fail: after a MemoryError the map is as it was.
        """
        cdef uint64_t ends[BLOCK_RUNS]
        cdef uint64_t source_skips[BLOCK_RUNS]
        cdef uint64_t target_skips[BLOCK_RUNS]
        cdef Mapped *run = self.tail
        cdef uint64_t before = 0
        cdef int i
        for i in range(BLOCK_RUNS):
            source_skips[i] = <uint64_t>(run[i].source - run[0].source) - before
            target_skips[i] = <uint64_t>(run[i].target - run[0].target) - before
            before += <uint64_t>run[i].count
            ends[i] = before
        cdef uint64_t source_least = take_least(source_skips), target_least = take_least(target_skips)
        cdef uint64_t w = width_of(ends[BLOCK_RUNS - 1])
        cdef uint64_t v = width_of(source_skips[BLOCK_RUNS - 1])
        cdef uint64_t u = width_of(target_skips[BLOCK_RUNS - 1])
        cdef Py_ssize_t size = <Py_ssize_t>(BLOCK_RUNS * (w + v + u))
        self.make_room(size)
        cdef uint8_t *at = self.packed + self.packed_size
        at = put_column(at, ends, w)
        at = put_column(at, source_skips, v)
        put_column(at, target_skips, u)
        cdef Py_ssize_t group = self.blocks // GROUP_BLOCKS, member = self.blocks % GROUP_BLOCKS
        cdef int64_t *words = self.directory + group * GROUP_WORDS
        cdef int64_t line = self.packed_size // EO_LINE
        words[member] = run[0].source
        words[GROUP_BLOCKS + member] = run[0].target
        words[2 * GROUP_BLOCKS + member] = line << 20 | <int64_t>(
            target_least << 16 | source_least << 12 | u << 8 | v << 4 | w
        )
        if member == 0:
            self.source_samples[group] = run[0].source
            self.target_samples[group] = run[0].target
            self.group_lines[group] = line
        self.packed_size += size
        self.blocks += 1
        self.open = 0
        return 0

    cdef int make_room(self, Py_ssize_t size) except -1:
        # A room is raised after what it counts: when memory ends in between, the arrays are larger than it says.
        cdef Py_ssize_t old = self.packed_room, room = self.packed_size + size + LOAD_BYTES
        cdef Py_ssize_t word = sizeof(int64_t)
        if room > old:
            room += room // 8
            self.packed = <uint8_t *>grown(self.packed, old, room)
            self.packed_room = room
        old = self.group_room
        if self.blocks == old * GROUP_BLOCKS:
            room = old + old // 8 + 1
            self.directory = <int64_t *>grown(self.directory, GROUP_WORDS * old * word, GROUP_WORDS * room * word)
            self.source_samples = <int64_t *>grown(self.source_samples, old * word, room * word)
            self.target_samples = <int64_t *>grown(self.target_samples, old * word, room * word)
            self.group_lines = <int64_t *>grown(self.group_lines, old * word, room * word)
            self.group_room = room
        return 0

    cdef Py_ssize_t find(self, bint by_target, int64_t offset) noexcept nogil:
        """Index of the last run that begins at or below the offset, or -1."""
        cdef const int64_t *samples = self.target_samples if by_target else self.source_samples
        cdef Py_ssize_t i, group, member, left
        cdef const int64_t *words
        cdef Block block
        if self.open and offset >= (self.tail[0].target if by_target else self.tail[0].source):
            i = self.open - 1
            while (self.tail[i].target if by_target else self.tail[i].source) > offset:
                i -= 1
            return self.blocks * BLOCK_RUNS + i
        if self.blocks == 0 or offset < samples[0]:
            return -1
        group = eo_search(samples, (self.blocks + GROUP_BLOCKS - 1) // GROUP_BLOCKS, offset)
        words = self.directory + group * GROUP_WORDS
        eo_prefetch(self.packed + self.group_lines[group] * EO_LINE, 1)
        if (group + 1) * GROUP_BLOCKS < self.blocks:
            eo_prefetch(self.packed + (self.group_lines[group + 1] - 1) * EO_LINE, 1)
        eo_prefetch(<const uint8_t *>words, 6)
        left = self.blocks - group * GROUP_BLOCKS
        if left > GROUP_BLOCKS:
            left = GROUP_BLOCKS
        member = eo_search(words + GROUP_BLOCKS if by_target else words, left, offset)
        self.take_apart(group, member, &block)
        eo_prefetch(block.ends, block.end_width + block.source_width + block.target_width)
        i = (group * GROUP_BLOCKS + member) * BLOCK_RUNS
        if by_target:
            return i + <Py_ssize_t>eo_search_block(
                block.ends, block.end_width, block.target_skips, block.target_width, block.target_least,
                <uint64_t>(offset - block.target)
            )
        return i + <Py_ssize_t>eo_search_block(
            block.ends, block.end_width, block.source_skips, block.source_width, block.source_least,
            <uint64_t>(offset - block.source)
        )

    cdef void take_apart(self, Py_ssize_t group, Py_ssize_t member, Block *block) noexcept nogil:
        cdef const int64_t *words = self.directory + group * GROUP_WORDS
        cdef uint64_t place = <uint64_t>words[2 * GROUP_BLOCKS + member]
        block.source = words[member]
        block.target = words[GROUP_BLOCKS + member]
        block.end_width = place & 15
        block.source_width = place >> 4 & 15
        block.target_width = place >> 8 & 15
        block.source_least = place >> 12 & 15
        block.target_least = place >> 16 & 15
        block.ends = self.packed + (place >> 20) * EO_LINE
        block.source_skips = block.ends + BLOCK_RUNS * block.end_width
        block.target_skips = block.source_skips + BLOCK_RUNS * block.source_width

    cdef Mapped at(self, Py_ssize_t i) noexcept nogil:
        """The run of an index below len(self)."""
        cdef Py_ssize_t b = i // BLOCK_RUNS
        cdef Block block
        cdef uint64_t before, end, source_skip, target_skip
        i -= b * BLOCK_RUNS
        if b == self.blocks:
            return self.tail[i]
        self.take_apart(b // GROUP_BLOCKS, b % GROUP_BLOCKS, &block)
        end = eo_number(block.ends, block.end_width, i)
        before = eo_number(block.ends, block.end_width, i - 1) if i else 0
        source_skip = i * block.source_least + eo_number(block.source_skips, block.source_width, i)
        target_skip = i * block.target_least + eo_number(block.target_skips, block.target_width, i)
        return Mapped(
            block.source + <int64_t>(before + source_skip),
            block.target + <int64_t>(before + target_skip),
            <int64_t>(end - before),
        )

    cdef object run(self, Py_ssize_t i):
        cdef Mapped found
        if i < 0 or i >= self.blocks * BLOCK_RUNS + self.open:
            return None
        found = self.at(i)
        return (found.source, found.target, found.count)

    def to_target(self, int64_t source):
        """The target offset of a mirrored source offset; None when it lies in no run."""
        cdef Py_ssize_t i = self.find(False, source)
        if i < 0:
            return None
        cdef Mapped found = self.at(i)
        return None if source - found.source >= found.count else found.target + (source - found.source)

    def to_source(self, int64_t target):
        """The source offset of a target offset; None when it lies in no run."""
        cdef Py_ssize_t i = self.find(True, target)
        if i < 0:
            return None
        cdef Mapped found = self.at(i)
        return None if target - found.target >= found.count else found.source + (target - found.target)

    def floor(self, int64_t source):
        """The last run that begins at or below the source offset, or None."""
        return self.run(self.find(False, source))

    def ceiling(self, int64_t source):
        """The first run that begins at or above the source offset, or None."""
        cdef Py_ssize_t i = self.find(False, source)
        return self.run(i if i >= 0 and self.at(i).source == source else i + 1)

    def target_floor(self, int64_t target):
        """The last run that begins at or below the target offset, or None."""
        return self.run(self.find(True, target))

    def target_ceiling(self, int64_t target):
        """The first run that begins at or above the target offset, or None."""
        cdef Py_ssize_t i = self.find(True, target)
        return self.run(i if i >= 0 and self.at(i).target == target else i + 1)

    def runs(self):
        """Every run, ascending; a run appended meanwhile is seen, one that is merged may be seen with its old count."""
        cdef Py_ssize_t i = 0
        while i < self.blocks * BLOCK_RUNS + self.open:
            yield self.run(i)
            i += 1


cdef void *grown(void *array, size_t old_size, size_t size) except NULL:
    cdef void *moved = eo_grown(array, old_size, size)
    if moved == NULL:
        raise MemoryError()
    return moved


cdef uint64_t take_least(uint64_t *skips) noexcept nogil:
    """The least skip between two runs of a block, 15 at most; i times that is taken off skips[i]."""
    cdef uint64_t least = 15
    cdef int i
    for i in range(1, BLOCK_RUNS):
        if skips[i] - skips[i - 1] < least:
            least = skips[i] - skips[i - 1]
    for i in range(BLOCK_RUNS):
        skips[i] -= i * least
    return least


cdef uint64_t width_of(uint64_t largest) noexcept nogil:
    """Bytes per number of a column whose last number is the largest."""
    cdef uint64_t width = 0
    while largest:
        largest >>= 8
        width += 1
    return width


cdef uint8_t *put_column(uint8_t *at, const uint64_t *numbers, size_t width) noexcept nogil:
    """A block's numbers, little endian; returns the byte behind them."""
    cdef size_t byte
    cdef int i
    for i in range(BLOCK_RUNS):
        for byte in range(width):
            at[byte] = <uint8_t>(numbers[i] >> (8 * byte))
        at += width
    return at
