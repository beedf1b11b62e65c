# Recipes: steps over a record's header list, compiled once, applied in the walk without the GIL.
#
# A list holds pointers only: into the source record, into the recipe's own bytes, and, for values with numbers in them,
# into a small buffer that is rendered anew for each record. Headers that stay are copied as they were written.

cdef extern from *:
    """
    #include <string.h>

    /* memcpy for the few bytes that a name or a number has, without a call */
    static inline void eo_copy(uint8_t *to, const uint8_t *from, size_t size) {
        if (size > 16) { memcpy(to, from, size); return; }
        if (size >= 8) {
            uint64_t head, tail;
            memcpy(&head, from, 8); memcpy(&tail, from + size - 8, 8);
            memcpy(to, &head, 8); memcpy(to + size - 8, &tail, 8);
        } else if (size >= 4) {
            uint32_t head, tail;
            memcpy(&head, from, 4); memcpy(&tail, from + size - 4, 4);
            memcpy(to, &head, 4); memcpy(to + size - 4, &tail, 4);
        } else
            for (size_t i = 0; i < size; i++) to[i] = from[i];
    }
    """
    void copy "eo_copy"(uint8_t *to, const uint8_t *from_, size_t size) noexcept nogil
    void *memmem(const void *haystack, size_t haystack_size, const void *needle, size_t needle_size) nogil

cdef enum:
    NUMBER_ROOM = 20            # "-9223372036854775808"
    VARINT_ROOM = 5
    MAX_HEADERS = 1048576       # in one record's list; more is TOO_LARGE, so a hostile list costs 40 MiB at most
    MAX_RECIPE_BYTES = 1048576  # of one operation

cdef dict VERBS = {"remove": REMOVE, "remove_matching": REMOVE_MATCHING, "rename": RENAME, "set": SET, "add": ADD}


cdef class Recipe:
    def __cinit__(self, operations):
        self.kept = []
        self.operations = tuple([_checked(i, operation) for i, operation in enumerate(operations)])
        cdef Operation *items = <Operation *>self.room(sizeof(Operation) * <size_t>len(self.operations))
        cdef Py_ssize_t i
        for i in range(len(self.operations)):
            self.compile(self.operations[i], &items[i])
        self.steps.items = items
        self.steps.count = len(self.operations)

    def __repr__(self):
        return f"Recipe({self.operations!r})"

    def __reduce__(self):
        return Recipe, (self.operations,)

    cdef void *room(self, size_t size) except NULL:
        """Zeroed memory that lives as long as the recipe; bytes objects are aligned for any struct."""
        cdef bytes block = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size + 16)
        memset(PyBytes_AS_STRING(block), 0, size + 16)
        self.kept.append(block)
        return <void *>((<size_t>PyBytes_AS_STRING(block) + 15) & ~<size_t>15)

    cdef const uint8_t *keep(self, bytes data) except NULL:
        self.kept.append(data)
        return <const uint8_t *>PyBytes_AS_STRING(data)

    cdef int compile(self, tuple operation, Operation *out) except -1:
        cdef Header *made
        cdef bytes name = operation[1], data
        out.verb = VERBS[operation[0]]
        out.name = self.keep(name)
        out.name_size = len(name)
        if out.verb == REMOVE:
            return 0
        if out.verb == REMOVE_MATCHING:
            self.parts(name.split(b"*"), out)
            return 0
        made = <Header *>self.room(sizeof(Header))
        out.made = made
        name = operation[2] if out.verb == RENAME else name
        data = _sized(name)
        made.head = self.keep(data)
        made.head_size = len(data)
        made.name_size = len(name)
        if out.verb == RENAME:
            return 0
        self.steps.appends += 1
        if all([isinstance(part, bytes) for part in operation[2]]):
            data = _sized(b"".join(operation[2]))
            made.tail = self.keep(data)
            made.tail_size = len(data)
        else:
            self.parts(operation[2], out)
            self.steps.value_room += VARINT_ROOM + out.fixed + NUMBER_ROOM * out.part_count
        return 0

    cdef int parts(self, parts, Operation *out) except -1:
        cdef Part *made = <Part *>self.room(sizeof(Part) * <size_t>len(parts))
        cdef Py_ssize_t i
        out.parts = made
        out.part_count = len(parts)
        for i in range(len(parts)):
            if isinstance(parts[i], bytes):
                made[i].bytes = self.keep(parts[i])
                made[i].size = len(parts[i])
                out.fixed += made[i].size
            elif parts[i] == "timestamp":
                made[i].timestamp = True
                self.steps.timestamp = True
            else:
                self.steps.offset = True
        return 0


cdef bytes _sized(bytes data):
    cdef uint8_t length[5]
    return PyBytes_FromStringAndSize(<char *>length, put_varint(length, <int32_t>len(data)) - length) + data


def _checked(index, operation):
    """The operation as a tuple of its own: names are bytes, neighbouring constants are joined."""
    def refuse(what):
        raise ValueError(f"operation {index}: {what}")

    if type(operation) is not tuple or not operation or type(operation[0]) is not str or operation[0] not in VERBS:
        refuse(f"{operation!r} is none of {', '.join(VERBS)}")
    verb, arguments = operation[0], operation[1:]
    if len(arguments) != (1 if verb in ("remove", "remove_matching") else 2):
        refuse(f"{verb} has {len(arguments)} arguments")
    for name in arguments[:2 if verb == "rename" else 1]:
        if type(name) is not bytes:
            refuse(f"{verb}: the name {name!r} is not bytes")
    parts = ()
    if verb in ("set", "add"):
        if not isinstance(arguments[1], tuple):
            refuse(f"{verb}: the parts {arguments[1]!r} are not a tuple")
        for part in arguments[1]:
            if type(part) is not bytes and part not in ("offset", "timestamp"):
                refuse(f"{verb}: the part {part!r} is neither bytes nor offset nor timestamp")
        parts = _joined(arguments[1])
        arguments = (arguments[0], parts)
    size = sum([len(data) for data in (*arguments, *parts) if type(data) is bytes]) + NUMBER_ROOM * len(parts)
    if size > MAX_RECIPE_BYTES:
        refuse(f"{verb}: {size} bytes, more than {MAX_RECIPE_BYTES}")
    return verb, *arguments


def _joined(parts):
    joined, constant = [], b""
    for part in parts:
        if type(part) is bytes:
            constant += part
            continue
        if constant:
            joined.append(constant)
        joined.append(part)
        constant = b""
    return (*joined, constant) if constant else tuple(joined)


cdef bint pattern_matches(const Operation *operation, const uint8_t *name, Py_ssize_t size) noexcept nogil:
    """The parts between the stars, in order: the first begins the name, the last ends it, each other one is where it
    is found first. One pass over the name."""
    cdef const Part *parts = operation.parts
    cdef Py_ssize_t i, last = operation.part_count - 1
    cdef const uint8_t *found
    if last == 0:
        return size == parts[0].size and memcmp(name, parts[0].bytes, size) == 0
    if size < parts[0].size + parts[last].size or memcmp(name, parts[0].bytes, parts[0].size) != 0:
        return False
    if memcmp(name + size - parts[last].size, parts[last].bytes, parts[last].size) != 0:
        return False
    size -= parts[0].size + parts[last].size
    name += parts[0].size
    for i in range(1, last):
        found = <const uint8_t *>memmem(name, size, parts[i].bytes, parts[i].size)
        if found == NULL:
            return False
        size -= found + parts[i].size - name
        name = found + parts[i].size
    return True


cdef inline bint is_meant(const Operation *operation, const Header *header) noexcept nogil:
    cdef const uint8_t *name = header.head + header.head_size - header.name_size
    if operation.verb == REMOVE_MATCHING:
        return pattern_matches(operation, name, header.name_size)
    return header.name_size == operation.name_size and memcmp(name, operation.name, header.name_size) == 0


cdef Fault list_headers(const Cursor *c, const Record *record, HeaderList *out) noexcept nogil:
    """The headers of a record that get_record has validated, as they are written."""
    cdef Cursor body = Cursor(c.base, record.headers, record.end)
    cdef Py_ssize_t start, from_
    cdef int32_t size, i
    cdef Fault fault
    cdef Header *item
    for i in range(record.header_count):
        item = &out.items[i]
        from_ = body.pos
        fault = get_bytes(&body, False, &start, &size)
        if fault:
            return fault
        item.head = c.base + from_
        item.head_size = body.pos - from_
        item.name_size = size
        from_ = body.pos
        fault = get_bytes(&body, True, &start, &size)
        if fault:
            return fault
        item.tail = c.base + from_
        item.tail_size = body.pos - from_
    out.count = record.header_count
    return FINE


cdef Fault apply_steps(
    const Steps *steps, const Cursor *c, const Record *record, int64_t offset, int64_t timestamp, HeaderList *out
) noexcept nogil:
    """Fill `out` with the record's headers after all steps; TOO_LARGE for a list beyond MAX_HEADERS, which has `count`
    headers and no items."""
    cdef Py_ssize_t needed = record.header_count + steps.appends, i, k, kept
    cdef const Operation *operation
    cdef uint8_t *value = out.values
    cdef uint8_t digits[2 * NUMBER_ROOM]
    cdef int widths[2]
    cdef Fault fault
    if needed > MAX_HEADERS:
        out.count = needed
        return TOO_LARGE
    if needed > out.room:
        # The old list is of the record before: nothing of it is kept.
        free(out.items)
        out.room = 0
        out.items = <Header *>malloc(sizeof(Header) * <size_t>(needed + 16))
        if out.items == NULL:
            return NO_MEMORY
        out.room = needed + 16
    fault = list_headers(c, record, out)
    if fault:
        return fault
    if steps.offset:
        widths[0] = put_decimal(digits, offset)
    if steps.timestamp:
        widths[1] = put_decimal(digits + NUMBER_ROOM, timestamp)
    for k in range(steps.count):
        operation = &steps.items[k]
        if operation.verb == RENAME:
            for i in range(out.count):
                if is_meant(operation, &out.items[i]):
                    out.items[i].head = operation.made.head
                    out.items[i].head_size = operation.made.head_size
                    out.items[i].name_size = operation.made.name_size
            continue
        if operation.verb != ADD:
            kept = 0
            for i in range(out.count):
                if not is_meant(operation, &out.items[i]):
                    if kept != i:
                        out.items[kept] = out.items[i]
                    kept += 1
            out.count = kept
        if operation.made != NULL:
            out.items[out.count] = operation.made[0]
            if operation.parts != NULL:
                out.items[out.count].tail = value
                value = put_value(value, operation, digits, widths)
                out.items[out.count].tail_size = value - out.items[out.count].tail
            out.count += 1
    out.bytes = varint_size(<int32_t>out.count)
    for i in range(out.count):
        out.bytes += out.items[i].head_size + out.items[i].tail_size
    return FINE


cdef uint8_t *put_value(
    uint8_t *at, const Operation *operation, const uint8_t *digits, const int *widths
) noexcept nogil:
    """A value made of constants and numbers, its length before it."""
    cdef Py_ssize_t size = operation.fixed, i
    cdef const Part *part
    for i in range(operation.part_count):
        if operation.parts[i].bytes == NULL:
            size += widths[operation.parts[i].timestamp]
    at = put_varint(at, <int32_t>size)
    for i in range(operation.part_count):
        part = &operation.parts[i]
        if part.bytes != NULL:
            copy(at, part.bytes, part.size)
            at += part.size
        else:
            copy(at, digits + NUMBER_ROOM * part.timestamp, widths[part.timestamp])
            at += widths[part.timestamp]
    return at


cdef uint8_t *put_headers(uint8_t *at, const HeaderList *headers) noexcept nogil:
    """The list as it stands in a record, its count first: `headers.bytes` bytes."""
    cdef Py_ssize_t i
    cdef const Header *item
    at = put_varint(at, <int32_t>headers.count)
    for i in range(headers.count):
        item = &headers.items[i]
        copy(at, item.head, item.head_size)
        copy(at + item.head_size, item.tail, item.tail_size)
        at += item.head_size + item.tail_size
    return at


cdef int put_decimal(uint8_t *out, int64_t value) noexcept nogil:
    """The value in decimal; returns how many bytes, at most NUMBER_ROOM."""
    cdef uint8_t room[NUMBER_ROOM]
    cdef int at = NUMBER_ROOM
    cdef uint64_t left = <uint64_t>value if value >= 0 else 0 - <uint64_t>value
    cdef uint32_t eight, pair
    cdef int i
    # Eight digits at a time, for a division of 64 bits is dear.
    while left >= 100000000:
        eight = <uint32_t>(left % 100000000)
        left //= 100000000
        for i in range(4):
            pair = eight % 100
            eight //= 100
            at -= 2
            room[at] = <uint8_t>(48 + pair // 10)
            room[at + 1] = <uint8_t>(48 + pair % 10)
    eight = <uint32_t>left
    while True:
        at -= 1
        room[at] = <uint8_t>(48 + eight % 10)
        eight //= 10
        if eight == 0:
            break
    if value < 0:
        at -= 1
        room[at] = 45
    copy(out, room + at, NUMBER_ROOM - at)
    return NUMBER_ROOM - at
