# The runs of one partition, source and target: append at the end, binary search both ways.

cdef class OffsetMap:
    def __dealloc__(self):
        free(self.source)
        free(self.target)
        free(self.count)

    def __len__(self):
        return self.size

    def __repr__(self):
        return f"OffsetMap({self.size} runs)"

    def append(self, int64_t source_first, int64_t target_first, int64_t count):
        """Add a run behind the last one; one that continues it on both sides is merged into it."""
        cdef int64_t source_end = 0, target_end = 0, unused
        cdef Py_ssize_t last = self.size - 1
        if source_first < 0 or target_first < 0 or count <= 0:
            raise ValueError(f"run ({source_first}, {target_first}, {count}): offsets start at 0 and counts at 1")
        if add_overflows(source_first, count, &unused) or add_overflows(target_first, count, &unused):
            raise ValueError(f"run ({source_first}, {target_first}, {count}) passes the last offset")
        if last >= 0:
            source_end = self.source[last] + self.count[last]
            target_end = self.target[last] + self.count[last]
        if source_first < source_end or target_first < target_end:
            raise ValueError(
                f"run ({source_first}, {target_first}, {count}) is not beyond the last one,"
                f" which ends before ({source_end}, {target_end})"
            )
        if last >= 0 and source_first == source_end and target_first == target_end:
            self.count[last] += count
            return
        if self.size == self.room:
            self.grow()
        self.source[self.size] = source_first
        self.target[self.size] = target_first
        self.count[self.size] = count
        self.size += 1

    cdef int grow(self) except -1:
        cdef Py_ssize_t room = self.room + self.room // 2 + 16
        # room is raised last: after a failure in between, the arrays are larger than it says and nothing is lost.
        self.source = grown(self.source, room)
        self.target = grown(self.target, room)
        self.count = grown(self.count, room)
        self.room = room
        return 0

    def to_target(self, int64_t source):
        """The target offset of a mirrored source offset; None when it lies in no run."""
        cdef Py_ssize_t i = last_at_or_below(self.source, self.size, source)
        if i < 0 or source - self.source[i] >= self.count[i]:
            return None
        return self.target[i] + (source - self.source[i])

    def to_source(self, int64_t target):
        """The source offset of a target offset; None when it lies in no run."""
        cdef Py_ssize_t i = last_at_or_below(self.target, self.size, target)
        if i < 0 or target - self.target[i] >= self.count[i]:
            return None
        return self.source[i] + (target - self.target[i])

    def floor(self, int64_t source):
        """The last run that begins at or below the source offset, or None."""
        cdef Py_ssize_t i = last_at_or_below(self.source, self.size, source)
        return None if i < 0 else (self.source[i], self.target[i], self.count[i])

    def ceiling(self, int64_t source):
        """The first run that begins at or above the source offset, or None."""
        cdef Py_ssize_t i = last_at_or_below(self.source, self.size, source)
        if i < 0 or self.source[i] < source:
            i += 1
        return None if i == self.size else (self.source[i], self.target[i], self.count[i])

    def runs(self):
        """Every run, ascending; a run appended meanwhile is seen, one that is merged may be seen with its old count."""
        cdef Py_ssize_t i = 0
        while i < self.size:
            yield (self.source[i], self.target[i], self.count[i])
            i += 1


cdef int64_t *grown(int64_t *array, Py_ssize_t room) except NULL:
    cdef void *moved = realloc(array, sizeof(int64_t) * <size_t>room)
    if moved == NULL:
        raise MemoryError()
    return <int64_t *>moved


cdef Py_ssize_t last_at_or_below(const int64_t *array, Py_ssize_t size, int64_t value) noexcept nogil:
    """Index of the last element that is not above the value, or -1."""
    cdef Py_ssize_t low = 0, high = size, middle
    while low < high:
        middle = low + (high - low) // 2
        if array[middle] <= value:
            low = middle + 1
        else:
            high = middle
    return low - 1
