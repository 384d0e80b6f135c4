/* Uni-LoRA, version 1, in C: one file, written from the texts of SPEC.md and PROTOCOL.md alone.

       gcc -std=c11 -O2 -Wall -Wextra -Werror -ffp-contract=off -o unilora unilora.c -lm

   The program answers the requests of PROTOCOL.md, one JSON line each, from standard input to standard output. It
   supports the levels "projection" and "file" and the three kinds of projection that SPEC 9.1 asks of everyone, and
   not the level "full".

   How it is built:

   - The sections follow the chapters of SPEC.md, and comments name the rule that a piece of code carries out. Numbers
     of the specification are int64_t, which chapter 1.4 shows to be enough; only keys, mixing and the length of a header
     are unsigned. A product that 1.4 marks "before a check" is not computed: a quotient of its limit is compared.
   - A refusal is a call of refuse(): it leaves the request by longjmp. All memory belongs to the request and is freed
     after its answer, so that nothing is lost on the way out.
   - A file is untrusted. Nothing is allocated by a number of it that has not been checked (8.9), and each step takes
     time about linear in the file and in the limits of 7.1.

   -ffp-contract=off keeps the compiler from fusing a product and a sum into one rounding (6.2 to 6.4). */

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Files and arrays are little-endian (8.2, PROTOCOL.md) and are copied to and from memory as they are. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "this program assumes a little-endian machine");
_Static_assert(FLT_EVAL_METHOD == 0, "this program assumes that float and double are evaluated in their own precision");

/* Below 0, 0 or above it, as a is below b, equal or above it: what qsort asks for. */
#define ORDER(a, b) (((a) > (b)) - ((a) < (b)))

#define MAX_COLUMNS (((int64_t)1 << 31) - 1)  /* SPEC 1.1: d */
#define MAX_ROWS ((int64_t)1 << 40)           /* SPEC 1.1: D */
#define MAX_SEGMENTS 65536                    /* SPEC 7.1 */
#define MAX_NAME 512                          /* SPEC 7.2 */
#define MAX_NAMES ((size_t)1 << 22)           /* SPEC 7.1: bytes of all names together */
#define MAX_HEADER 262144                     /* SPEC 8.2 */
#define MAX_DIMENSIONS 64                     /* SPEC 8.2 */
#define MAX_DEPTH 16                          /* SPEC 8.5 */
#define MAX_WHOLE (((int64_t)1 << 53) - 1)    /* SPEC 8.5 */
#define MAX_REQUEST ((size_t)16 << 20)        /* PROTOCOL.md */
#define MAX_ANSWER ((size_t)64 << 20)         /* PROTOCOL.md */

/* ---- Memory: all of a request's, freed after its answer ---------------------------------------------------------- */

typedef struct Block {
    struct Block *previous, *next;
    max_align_t memory[];
} Block;

static Block blocks = {&blocks, &blocks};  /* a ring, so that linking needs no cases */

static void *link_block(Block *block) {
    if (block == NULL) {
        fputs("out of memory\n", stderr);
        exit(EXIT_FAILURE);
    }
    block->previous = &blocks;
    block->next = blocks.next;
    blocks.next->previous = block;
    blocks.next = block;
    return block->memory;
}

/* Zeroed memory for `count` elements of `size` bytes. */
static void *allocate(size_t count, size_t size) {
    if (count > (SIZE_MAX - sizeof(Block)) / size)
        return link_block(NULL);
    return link_block(calloc(1, sizeof(Block) + count * size));
}

/* Takes and gives memory of this section, or takes NULL. */
static void *reallocate(void *memory, size_t size) {
    Block *block = NULL;
    if (memory != NULL) {
        block = (Block *)((char *)memory - offsetof(Block, memory));
        block->previous->next = block->next;
        block->next->previous = block->previous;
    }
    return link_block(realloc(block, sizeof(Block) + size));
}

static void free_all(void) {
    while (blocks.next != &blocks) {
        Block *block = blocks.next;
        blocks.next = block->next;
        free(block);
    }
    blocks.previous = &blocks;
}

/* ---- Texts ------------------------------------------------------------------------------------------------------- */

/* Bytes that belong to something else; text is UTF-8, and may hold the character U+0000. */
typedef struct {
    const uint8_t *bytes;
    size_t length;
} String;

/* A text being written. */
typedef struct {
    uint8_t *bytes;
    size_t length, capacity;
} Text;

static _Noreturn void refuse(const char *rule, const char *format, ...) __attribute__((format(printf, 2, 3)));

static String string(const char *literal) {
    return (String){(const uint8_t *)literal, strlen(literal)};
}

static String string_of(Text text) {
    return (String){text.bytes, text.length};
}

static String without_start(String text, size_t length) {
    return (String){text.bytes + length, text.length - length};
}

/* The order of the UTF-8 bytes, which is that of all texts but for keys (SPEC, introduction). */
static int compare_strings(String a, String b) {
    size_t common = a.length < b.length ? a.length : b.length;
    int order = common > 0 ? memcmp(a.bytes, b.bytes, common) : 0;
    return order != 0 ? order : ORDER(a.length, b.length);
}

static bool equals(String a, String b) {
    return a.length == b.length && compare_strings(a, b) == 0;
}

static bool is(String text, const char *literal) {
    return equals(text, string(literal));
}

static bool starts_with(String text, String start) {
    return text.length >= start.length && memcmp(text.bytes, start.bytes, start.length) == 0;
}

/* Room for `length` more bytes. Each text is a part of an answer, so that none is longer than one. */
static uint8_t *extend(Text *text, size_t length) {
    if (length > MAX_ANSWER - text->length)
        refuse(NULL, "the answer would have more than 64 MB");
    if (text->length + length > text->capacity) {
        text->capacity = 2 * text->capacity > text->length + length ? 2 * text->capacity : text->length + length;
        text->bytes = reallocate(text->bytes, text->capacity);
    }
    text->length += length;
    return text->bytes + text->length - length;
}

static void put_string(Text *text, String content) {
    uint8_t *room = extend(text, content.length);
    if (content.length > 0)
        memcpy(room, content.bytes, content.length);
}

static void put(Text *text, const char *literal) {
    put_string(text, string(literal));
}

/* For numbers and other short texts. */
static void put_format(Text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put_format(Text *text, const char *format, ...) {
    char formatted[128];
    va_list values;
    va_start(values, format);
    vsnprintf(formatted, sizeof formatted, format, values);
    va_end(values);
    put(text, formatted);
}

/* ---- Refusals ---------------------------------------------------------------------------------------------------- */

static jmp_buf refused;

#define MAX_SHOWN 100  /* bytes of a text that a message shows */

static struct {
    const char *rule;  /* the rule of SPEC.md that refuses, or NULL where the request itself is no good */
    char message[5 * MAX_SHOWN];
} refusal;

static _Noreturn void refuse(const char *rule, const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(refusal.message, sizeof refusal.message, format, values);
    va_end(values);
    refusal.rule = rule;
    longjmp(refused, 1);
}

/* A refusal that ends with a text of the file, in one short line of ASCII, whatever a stranger wrote. */
static _Noreturn void refuse_named(const char *rule, const char *sentence, String name) {
    char shown[4 * MAX_SHOWN + 1] = "";
    for (size_t i = 0; i < name.length && i < MAX_SHOWN; i++) {
        uint8_t c = name.bytes[i];
        sprintf(shown + strlen(shown), c >= ' ' && c <= '~' ? "%c" : "\\x%02x", c);
    }
    refuse(rule, "%s: %s", sentence, shown);
}

/* ---- Base64 (PROTOCOL.md) ---------------------------------------------------------------------------------------- */

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void put_base64(Text *text, const void *data, size_t size) {
    const uint8_t *bytes = data;
    uint8_t *room = extend(text, (size + 2) / 3 * 4);
    for (size_t i = 0; i < size; i += 3) {
        size_t given = size - i < 3 ? size - i : 3;
        uint32_t group = 0;
        for (size_t k = 0; k < 3; k++)
            group = group << 8 | (k < given ? bytes[i + k] : 0u);
        for (size_t k = 0; k < 4; k++)
            *room++ = (uint8_t)(k <= given ? base64_digits[group >> (18 - 6 * k) & 63] : '=');
    }
}

static String decode_base64(String text) {
    if (text.length % 4 != 0)
        refuse(NULL, "an array is not base64 with padding");
    size_t digits = text.length;
    while (digits > 0 && text.length - digits < 2 && text.bytes[digits - 1] == '=')
        digits--;
    size_t size = digits / 4 * 3 + (digits % 4 == 0 ? 0 : digits % 4 - 1);
    uint8_t *bytes = allocate(size, 1);
    uint32_t group = 0;
    for (size_t i = 0, written = 0; written < size; i++) {
        const char *digit = memchr(base64_digits, text.bytes[i], 64);
        if (digit == NULL)
            refuse(NULL, "an array is not base64");
        group = group << 6 | (uint32_t)(digit - base64_digits);
        if (i % 4 != 0)
            bytes[written++] = (uint8_t)(group >> (6 - 2 * (i % 4)));
    }
    return (String){bytes, size};
}

/* ---- SPEC 8.5: JSON, read ---------------------------------------------------------------------------------------- */

typedef enum { JSON_TEXT, JSON_NUMBER, JSON_BOOLEAN, JSON_LIST, JSON_OBJECT } JsonType;

typedef struct Json {
    JsonType type;
    bool is_whole;      /* of a number: it is written without a point or an exponent */
    bool boolean;
    String key;         /* of a member of an object */
    struct Json *next;  /* the next one in the same list or object */
    union {
        String text;
        struct {
            int64_t whole;
            double number;
        };
        struct {
            struct Json *first;
            size_t count;
        };
    };
} Json;

typedef struct {
    const uint8_t *at, *end;
    int depth;
} Parser;

static bool next_is(const Parser *parser, char c) {
    return parser->at < parser->end && *parser->at == (uint8_t)c;
}

static bool take(Parser *parser, char c) {
    bool found = next_is(parser, c);
    parser->at += found;
    return found;
}

static void expect(Parser *parser, char c) {
    if (!take(parser, c))
        refuse("8.5", "this is not JSON: a %c is missing", c);
}

static bool take_word(Parser *parser, const char *word) {
    size_t length = strlen(word);
    bool found = (size_t)(parser->end - parser->at) >= length && memcmp(parser->at, word, length) == 0;
    parser->at += found ? length : 0;
    return found;
}

static void skip_space(Parser *parser) {
    while (next_is(parser, ' ') || next_is(parser, '\t') || next_is(parser, '\n') || next_is(parser, '\r'))
        parser->at++;
}

/* The length of the character beyond ASCII at `at`, 0 where it is not UTF-8. The first byte bounds the second, which
   leaves out what is too long, the halves of surrogate pairs and what is above U+10FFFF. */
static size_t utf8_length(const uint8_t *at, const uint8_t *end) {
    uint8_t first = at[0];
    size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4 || (size_t)(end - at) < length)
        return 0;
    uint8_t least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    uint8_t most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (at[1] < least || at[1] > most)
        return 0;
    for (size_t i = 2; i < length; i++) {
        if ((at[i] & 0xC0) != 0x80)
            return 0;
    }
    return length;
}

static uint8_t *write_utf8(uint8_t *room, uint32_t character) {
    if (character < 0x80) {
        *room++ = (uint8_t)character;
        return room;
    }
    int more = character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
    *room++ = (uint8_t)((0xFF00 >> (more + 1) & 0xFF) | character >> 6 * more);
    while (more-- > 0)
        *room++ = (uint8_t)(0x80 | (character >> 6 * more & 0x3F));
    return room;
}

static uint32_t parse_hexadecimal(Parser *parser) {
    static const char digits[] = "0123456789abcdefABCDEF";
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        const char *digit = parser->at < parser->end ? memchr(digits, *parser->at++, 22) : NULL;
        if (digit == NULL)
            refuse("8.5", "a text has \\u without four hexadecimal digits");
        value = value << 4 | (uint32_t)(digit - digits < 16 ? digit - digits : digit - digits - 6);
    }
    return value;
}

/* The character of an escape; the parser stands behind its backslash. */
static uint32_t parse_escape(Parser *parser) {
    static const char letters[] = "\"\\/bfnrt";
    static const char meanings[] = "\"\\/\b\f\n\r\t";
    uint8_t letter = *parser->at++;
    const char *known = memchr(letters, letter, strlen(letters));
    if (known != NULL)
        return (uint8_t)meanings[known - letters];
    if (letter != 'u')
        refuse("8.5", "a text has an unknown escape");
    uint32_t unit = parse_hexadecimal(parser);
    if (unit < 0xD800 || unit > 0xDFFF)
        return unit;
    uint32_t low = unit < 0xDC00 && take_word(parser, "\\u") ? parse_hexadecimal(parser) : 0;
    if (low < 0xDC00 || low > 0xDFFF)
        refuse("8.5", "a text has half a surrogate pair");
    return 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
}

static String unescape(String raw) {
    uint8_t *bytes = allocate(raw.length, 1);
    uint8_t *room = bytes;
    Parser parser = {raw.bytes, raw.bytes + raw.length, 0};
    while (parser.at < parser.end) {
        if (take(&parser, '\\')) {
            room = write_utf8(room, parse_escape(&parser));
        } else {
            *room++ = *parser.at++;
        }
    }
    return (String){bytes, (size_t)(room - bytes)};
}

/* A text without escapes, as base64 is, stays where it is. */
static String parse_text(Parser *parser) {
    expect(parser, '"');
    const uint8_t *start = parser->at;
    bool escaped = false;
    while (!next_is(parser, '"')) {
        size_t left = (size_t)(parser->end - parser->at);
        size_t length = 1;
        if (left > 1 && *parser->at == '\\') {
            escaped = true;
            length = 2;
        } else if (left > 1 && *parser->at >= 0x80) {
            length = utf8_length(parser->at, parser->end);
        } else if (left <= 1 || *parser->at < 0x20) {
            refuse("8.5", "a text does not end, or has a control character");
        }
        if (length == 0)
            refuse("8.5", "a text is not UTF-8");
        parser->at += length;
    }
    String raw = {start, (size_t)(parser->at - start)};
    parser->at++;
    return escaped ? unescape(raw) : raw;
}

static void parse_digits(Parser *parser) {
    const uint8_t *start = parser->at;
    while (parser->at < parser->end && *parser->at >= '0' && *parser->at <= '9')
        parser->at++;
    if (parser->at == start)
        refuse("8.5", "this is not JSON: there is no value, or a number without a digit");
}

static void parse_number(Parser *parser, Json *value) {
    const uint8_t *start = parser->at;
    take(parser, '-');
    if (!take(parser, '0'))
        parse_digits(parser);
    value->is_whole = true;
    if (take(parser, '.')) {
        value->is_whole = false;
        parse_digits(parser);
    }
    if (take(parser, 'e') || take(parser, 'E')) {
        value->is_whole = false;
        if (!take(parser, '-'))
            take(parser, '+');
        parse_digits(parser);
    }
    char characters[33] = "";
    size_t length = (size_t)(parser->at - start);
    if (length > (value->is_whole ? 17 : 32))
        refuse("8.5", "a number has %zu characters", length);
    memcpy(characters, start, length);
    value->type = JSON_NUMBER;
    value->number = strtod(characters, NULL);
    if (!(fabs(value->number) <= (double)MAX_WHOLE))
        refuse("8.5", "the number %s is not below 2^53", characters);
    value->whole = value->is_whole ? strtoll(characters, NULL, 10) : 0;
}

static int compare_keys(const void *a, const void *b) {
    return compare_strings(*(const String *)a, *(const String *)b);
}

static void check_keys_differ(const Json *object) {
    String *keys = allocate(object->count, sizeof *keys);
    size_t count = 0;
    for (const Json *member = object->first; member != NULL; member = member->next)
        keys[count++] = member->key;
    qsort(keys, count, sizeof *keys, compare_keys);
    for (size_t i = 1; i < count; i++) {
        if (equals(keys[i - 1], keys[i]))
            refuse_named("8.5", "an object has a key twice", keys[i]);
    }
}

static Json *parse_value(Parser *parser);

static void parse_members(Parser *parser, Json *parent, char close) {
    if (++parser->depth > MAX_DEPTH)
        refuse("8.5", "lists and objects are nested deeper than %d", MAX_DEPTH);
    Json **end = &parent->first;
    skip_space(parser);
    if (!take(parser, close)) {
        do {
            skip_space(parser);
            String key = {0};
            if (parent->type == JSON_OBJECT) {
                key = parse_text(parser);
                skip_space(parser);
                expect(parser, ':');
            }
            *end = parse_value(parser);
            (*end)->key = key;
            end = &(*end)->next;
            parent->count++;
        } while (take(parser, ','));
        expect(parser, close);
    }
    parser->depth--;
    if (parent->type == JSON_OBJECT && parent->count > 1)
        check_keys_differ(parent);
}

static Json *parse_value(Parser *parser) {
    Json *value = allocate(1, sizeof *value);
    skip_space(parser);
    if (next_is(parser, '"')) {
        value->type = JSON_TEXT;
        value->text = parse_text(parser);
    } else if (take(parser, '{')) {
        value->type = JSON_OBJECT;
        parse_members(parser, value, '}');
    } else if (take(parser, '[')) {
        value->type = JSON_LIST;
        parse_members(parser, value, ']');
    } else if (take_word(parser, "true")) {
        value->type = JSON_BOOLEAN;
        value->boolean = true;
    } else if (take_word(parser, "false")) {
        value->type = JSON_BOOLEAN;
    } else {
        parse_number(parser, value);
    }
    skip_space(parser);
    return value;
}

static const Json *parse_json(String text) {
    Parser parser = {text.bytes, text.bytes + text.length, 0};
    const Json *value = parse_value(&parser);
    if (parser.at < parser.end)
        refuse("8.5", "there is more behind the JSON value");
    return value;
}

static void check_type(const Json *value, JsonType type, const char *rule, const char *what) {
    static const char *const types[] = {"a text", "a number", "true or false", "a list", "an object"};
    if (value->type != type)
        refuse(rule, "%s is not %s", what, types[type]);
}

static const Json *find_field(const Json *object, const char *key) {
    for (const Json *member = object->first; member != NULL; member = member->next) {
        if (is(member->key, key))
            return member;
    }
    return NULL;
}

static const Json *optional_field(const Json *object, const char *key, JsonType type, const char *rule) {
    const Json *value = find_field(object, key);
    if (value != NULL)
        check_type(value, type, rule, key);
    return value;
}

static const Json *field(const Json *object, const char *key, JsonType type, const char *rule) {
    const Json *value = optional_field(object, key, type, rule);
    if (value == NULL)
        refuse(rule, "the field %s is missing", key);
    return value;
}

#define FIELDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void check_fields(const Json *object, const char *const fields[], const char *rule) {
    for (const Json *member = object->first; member != NULL; member = member->next) {
        size_t i = 0;
        while (fields[i] != NULL && !is(member->key, fields[i]))
            i++;
        if (fields[i] == NULL)
            refuse_named(rule, "a field is not known", member->key);
    }
}

static int64_t whole_number(const Json *value, int64_t least, int64_t most, const char *rule, const char *what) {
    if (value->type != JSON_NUMBER || !value->is_whole)
        refuse(rule, "%s is not a number without a point or an exponent", what);
    if (value->whole < least || value->whole > most)
        refuse(rule, "%s is %" PRId64 ", not one of %" PRId64 " to %" PRId64, what, value->whole, least, most);
    return value->whole;
}

static int64_t whole_field(const Json *object, const char *key, int64_t least, int64_t most, const char *rule) {
    return whole_number(field(object, key, JSON_NUMBER, rule), least, most, rule, key);
}

/* ---- SPEC 8.5: canonical JSON, written --------------------------------------------------------------------------- */

static void put_text(Text *text, String content) {
    static const char specials[] = "\"\\\b\t\n\f\r";
    static const char letters[] = "\"\\btnfr";
    put(text, "\"");
    for (size_t i = 0; i < content.length; i++) {
        uint8_t c = content.bytes[i];
        const char *special = memchr(specials, c, strlen(specials));
        if (special != NULL) {
            uint8_t *room = extend(text, 2);
            room[0] = '\\';
            room[1] = (uint8_t)letters[special - specials];
        } else if (c < 0x20) {
            put_format(text, "\\u%04x", c);
        } else {
            *extend(text, 1) = c;
        }
    }
    put(text, "\"");
}

/* The shortest decimal, for numbers in the range of alpha (7.7). The first precision whose decimal gives the same
   number back has the fewest digits, and printf gives the closest decimal of a precision. A number with fewer digits
   than its whole part, as 1000000 with one, is whole itself. */
static void put_decimal(Text *text, double number) {
    char digits[40];
    int precision = -1;
    do {
        snprintf(digits, sizeof digits, "%.*e", ++precision, number);
    } while (strtod(digits, NULL) != number);
    int decimals = precision - atoi(strchr(digits, 'e') + 1);
    put_format(text, "%.*f", decimals > 0 ? decimals : 0, number);
}

/* The rank of a byte of UTF-8 in the order of UTF-16 code units: U+E000 … U+FFFF (0xEE, 0xEF) come after all characters
   that take two units (0xF0 … 0xF4). All else has the same order in both. */
static int utf16_rank(uint8_t byte) {
    return byte == 0xEE || byte == 0xEF ? byte + 0x10 : byte;
}

static int compare_utf16(String a, String b) {
    size_t i = 0;
    while (i < a.length && i < b.length && a.bytes[i] == b.bytes[i])
        i++;
    if (i < a.length && i < b.length)
        return utf16_rank(a.bytes[i]) - utf16_rank(b.bytes[i]);
    return ORDER(a.length, b.length);
}

/* ---- SPEC 2 and 3: keys and mixing ------------------------------------------------------------------------------- */

#define KEYS 10

/* SPEC 2.1, 2.2 */
static void derive_keys(uint64_t seed, uint32_t keys[KEYS]) {
    uint64_t state = seed;
    for (int t = 0; t < KEYS; t++) {
        state += 0x9E3779B97F4A7C15;
        uint64_t z = state;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
        z = (z ^ z >> 27) * 0x94D049BB133111EB;
        z = z ^ z >> 31;
        keys[t] = (uint32_t)(z >> 32);
    }
}

/* SPEC 3.1 */
static uint32_t mix(uint32_t x, uint32_t key) {
    x ^= key;
    x ^= x >> 16;
    x *= 0x7FEB352D;
    x ^= x >> 15;
    x *= 0x297A2D39;
    x ^= x >> 16;
    return x;
}

/* SPEC 1.2, 8.6: the decimal number without leading zeros. */
static uint64_t parse_seed(String text) {
    if (text.length == 0 || (text.length > 1 && text.bytes[0] == '0'))
        refuse("8.6", "the seed is empty or has leading zeros");
    for (size_t i = 0; i < text.length; i++) {
        if (text.bytes[i] < '0' || text.bytes[i] > '9')
            refuse("8.6", "the seed is not a decimal number");
    }
    uint64_t seed = 0;
    for (size_t i = 0; i < text.length; i++) {
        uint64_t digit = text.bytes[i] - (uint64_t)'0';
        if (seed > (UINT64_MAX - digit) / 10)
            refuse("1.2", "the seed is not below 2^64");
        seed = 10 * seed + digit;
    }
    return seed;
}

/* ---- SPEC 4, 5 and 9: projections -------------------------------------------------------------------------------- */

typedef enum { BALANCED, UNIFORM, IDENTITY, KINDS } Kind;

static const char *const kind_names[KINDS] = {"balanced", "uniform", "identity"};

typedef struct {
    Kind kind;
    uint64_t seed;
    uint32_t keys[KEYS];
    int64_t d, D;
    int64_t a;  /* SPEC 4.1 */
} Projection;

/* SPEC 4.1: the smallest number whose square is at least D. */
static int64_t root(int64_t D) {
    int64_t a = (int64_t)sqrt((double)D);
    while (a * a < D)
        a++;
    while ((a - 1) * (a - 1) >= D)
        a--;
    return a;
}

static Projection make_projection(Kind kind, uint64_t seed, int64_t d, int64_t D) {
    if (d < 1 || d > D || D > MAX_ROWS || d > MAX_COLUMNS)
        refuse("1.1", "d = %" PRId64 " and D = %" PRId64 " do not keep 1 <= d <= D <= 2^40 and d < 2^31", d, D);
    if (kind == IDENTITY && d != D)
        refuse("9.2", "d = %" PRId64 " is not D = %" PRId64 ", as it is with identity", d, D);
    Projection projection = {.kind = kind, .seed = seed, .d = d, .D = D, .a = root(D)};
    derive_keys(seed, projection.keys);
    return projection;
}

/* SPEC 9.1. It comes before the other fields are looked at, as a kind of later days may have others. */
static Kind parse_kind(const Json *value) {
    String name = field(value, "kind", JSON_TEXT, "8.6")->text;
    for (Kind kind = 0; kind < KINDS; kind++) {
        if (is(name, kind_names[kind]))
            return kind;
    }
    refuse_named("9.1", "the kind of the projection is not known", name);
}

/* SPEC 8.6 */
static Projection parse_projection(const Json *value) {
    Kind kind = parse_kind(value);
    check_fields(value, FIELDS("kind", "seed", "d", "D"), "8.6");
    uint64_t seed = parse_seed(field(value, "seed", JSON_TEXT, "8.6")->text);
    int64_t d = whole_field(value, "d", -MAX_WHOLE, MAX_WHOLE, "8.6");
    int64_t D = whole_field(value, "D", -MAX_WHOLE, MAX_WHOLE, "8.6");
    return make_projection(kind, seed, d, D);
}

/* SPEC 4.2, 4.3 */
static int64_t permute(const Projection *p, int64_t x) {
    do {
        int64_t L = x / p->a;
        int64_t R = x % p->a;
        for (int t = 0; t < 6; t++) {
            int64_t f = mix((uint32_t)R, p->keys[t]) * p->a >> 32;
            int64_t sum = L + f;
            L = R;
            R = sum < p->a ? sum : sum - p->a;
        }
        x = L * p->a + R;
    } while (x >= p->D);
    return x;
}

/* SPEC 4.4 */
static int64_t permute_back(const Projection *p, int64_t y) {
    do {
        int64_t L = y / p->a;
        int64_t R = y % p->a;
        for (int t = 5; t >= 0; t--) {
            int64_t f = mix((uint32_t)L, p->keys[t]) * p->a >> 32;
            int64_t difference = R - f;
            R = L;
            L = difference >= 0 ? difference : difference + p->a;
        }
        y = L * p->a + R;
    } while (y >= p->D);
    return y;
}

/* SPEC 4.5, 5.1, 9.2: the column of row i. */
static int64_t index_of(const Projection *p, int64_t i) {
    switch (p->kind) {
    case BALANCED:
        return permute(p, i) % p->d;
    case UNIFORM:
        return mix(mix((uint32_t)i, p->keys[6]) ^ (uint32_t)(i >> 32), p->keys[7]) * p->d >> 32;
    default:
        return i;
    }
}

/* SPEC 4.6, 5.2, 9.2: n_j for each column j of [start, stop), into counts. */
static void count_members(const Projection *p, int64_t start, int64_t stop, int64_t *counts) {
    for (int64_t j = start; j < stop; j++)
        counts[j - start] = p->kind == BALANCED ? p->D / p->d + (j < p->D % p->d) : p->kind == IDENTITY;
    if (p->kind == UNIFORM && start < stop) {
        for (int64_t i = 0; i < p->D; i++) {
            int64_t j = index_of(p, i);
            if (j >= start && j < stop)
                counts[j - start]++;
        }
    }
}

static int compare_numbers(const void *a, const void *b) {
    return ORDER(*(const int64_t *)a, *(const int64_t *)b);
}

/* SPEC 4.6: the rows of column j, ascending; there are `count`. */
static void balanced_members(const Projection *p, int64_t j, int64_t count, int64_t *rows) {
    for (int64_t k = 0; k < count; k++)
        rows[k] = permute_back(p, j + k * p->d);
    qsort(rows, (size_t)count, sizeof *rows, compare_numbers);
}

/* SPEC 5.2: the rows of each column of [start, stop), column after column. */
static void uniform_members(const Projection *p, int64_t start, int64_t stop, const int64_t *counts, int64_t *rows) {
    int64_t **ends = allocate((size_t)(stop - start), sizeof *ends);
    for (int64_t j = start; j < stop; j++) {
        ends[j - start] = rows;
        rows += counts[j - start];
    }
    for (int64_t i = 0; i < p->D; i++) {
        int64_t j = index_of(p, i);
        if (j >= start && j < stop)
            *ends[j - start]++ = i;
    }
}

/* The rows of each column of [start, stop), column after column. */
static void list_members(const Projection *p, int64_t start, int64_t stop, const int64_t *counts, int64_t *rows) {
    if (p->kind == UNIFORM) {
        uniform_members(p, start, stop, counts, rows);
        return;
    }
    for (int64_t j = start; j < stop; j++) {
        if (p->kind == BALANCED) {
            balanced_members(p, j, counts[j - start], rows);
        } else {
            *rows = j;
        }
        rows += counts[j - start];
    }
}

/* ---- SPEC 6: values ---------------------------------------------------------------------------------------------- */

/* SPEC 6.1: scale_j for each column j of [start, stop). */
static float *column_scales(const Projection *p, int64_t start, int64_t stop) {
    int64_t *counts = allocate((size_t)(stop - start), sizeof *counts);
    float *scales = allocate((size_t)(stop - start), sizeof *scales);
    count_members(p, start, stop, counts);
    for (int64_t j = 0; j < stop - start; j++)
        scales[j] = counts[j] == 0 ? 0.0f : (float)(1.0 / sqrt((double)counts[j]));
    return scales;
}

/* SPEC 6.2: the rows [start, stop) of θ_D. */
static void expand(const Projection *p, const float *theta, int64_t start, int64_t stop, float *rows) {
    const float *scales = column_scales(p, 0, p->d);
    for (int64_t i = start; i < stop; i++) {
        int64_t j = index_of(p, i);
        rows[i - start] = theta[j] * scales[j];
    }
}

/* SPEC 6.3, summed as the reference does. g has the rows [start, stop), and is 0 beyond them. */
static void adjoint(const Projection *p, const float *g, int64_t start, int64_t stop, float *columns) {
    const float *scales = column_scales(p, 0, p->d);
    double *sums = allocate((size_t)p->d, sizeof *sums);
    for (int64_t i = start; i < stop; i++)
        sums[index_of(p, i)] += (double)g[i - start];
    for (int64_t j = 0; j < p->d; j++)
        columns[j] = (float)((double)scales[j] * sums[j]);
}

/* SPEC 6.4 */
static float initial_value(const Projection *p, int64_t j, double bound) {
    double u = mix(mix((uint32_t)j, p->keys[8]), p->keys[9]) / 4294967296.0;
    return (float)((2.0 * u - 1.0) * bound);
}

static void initial(const Projection *p, double bound, float *theta) {
    for (int64_t j = 0; j < p->d; j++)
        theta[j] = initial_value(p, j, bound);
}

/* ---- SPEC 7: the layer map --------------------------------------------------------------------------------------- */

#define NONE ((int64_t)-1)

/* SPEC 7.2, and with more than one index a stack of 7.8. */
typedef struct {
    String name;
    int64_t out, in, rank;
    bool transposed;
    int64_t row;               /* or NONE */
    int64_t index, index_end;  /* [index, index_end), or NONE and NONE */
} Segment;

typedef struct {
    Segment *segments;
    const Segment **by_name;  /* the same, ordered by name, index and row */
    size_t count;
    int64_t D;
} LayerMap;

/* An entry of the compact form (7.8). A single segment is a run of one layer without a number. */
typedef struct {
    bool is_run;
    String prefix;
    int64_t first, end;
    Segment *segments;
    size_t count;
} Entry;

static int64_t segments_of(const Segment *stack) {
    return stack->index == NONE ? 1 : stack->index_end - stack->index;
}

/* SPEC 7.8: [first, end) */
static void parse_range(const Json *list, int64_t *first, int64_t *end) {
    if (list->count != 2)
        refuse("7.8", "a range is not two numbers");
    *first = whole_number(list->first, 0, MAX_ROWS, "7.8", "the first number of a range");
    *end = whole_number(list->first->next, 0, MAX_ROWS, "7.8", "the end of a range");
    if (*end - *first < 2)
        refuse("7.8", "the range [%" PRId64 ", %" PRId64 ") holds fewer than two numbers", *first, *end);
}

/* SPEC 7.2, 7.8 */
static Segment parse_segment(const Json *value) {
    check_type(value, JSON_OBJECT, "7.8", "a segment");
    check_fields(value, FIELDS("name", "out", "in", "rank", "transposed", "row", "index"), "7.8");
    Segment segment = {.row = NONE, .index = NONE, .index_end = NONE};
    segment.name = field(value, "name", JSON_TEXT, "7.8")->text;
    segment.out = whole_field(value, "out", 1, MAX_ROWS - 1, "7.2");
    segment.in = whole_field(value, "in", 1, MAX_ROWS - 1, "7.2");
    segment.rank = whole_field(value, "rank", 0, MAX_ROWS - 1, "7.2");
    int64_t smaller = segment.out < segment.in ? segment.out : segment.in;
    if (segment.rank > smaller)
        refuse("7.11", "the rank %" PRId64 " is above %" PRId64 ", min(out, in)", segment.rank, smaller);
    const Json *transposed = optional_field(value, "transposed", JSON_BOOLEAN, "7.2");
    segment.transposed = transposed != NULL && transposed->boolean;
    if (find_field(value, "row") != NULL)
        segment.row = whole_field(value, "row", 0, MAX_ROWS - 1, "7.2");
    const Json *index = find_field(value, "index");
    if (index != NULL && index->type == JSON_LIST) {
        parse_range(index, &segment.index, &segment.index_end);
    } else if (index != NULL) {
        segment.index = whole_number(index, 0, MAX_ROWS - 1, "7.2", "index");
        segment.index_end = segment.index + 1;
    }
    return segment;
}

/* SPEC 7.8 */
static Entry parse_entry(const Json *value) {
    check_type(value, JSON_OBJECT, "7.8", "an entry of the layer map");
    Entry entry = {.first = 0, .end = 1, .count = 1};
    entry.is_run = find_field(value, "layers") != NULL;
    const Json *segment = value;
    if (entry.is_run) {
        check_fields(value, FIELDS("layers", "prefix", "segments"), "7.8");
        parse_range(field(value, "layers", JSON_LIST, "7.8"), &entry.first, &entry.end);
        entry.prefix = field(value, "prefix", JSON_TEXT, "7.8")->text;
        const Json *segments = field(value, "segments", JSON_LIST, "7.8");
        segment = segments->first;
        entry.count = segments->count;
    }
    if (entry.count < 1 || entry.count > MAX_SEGMENTS)
        refuse("7.8", "a run has %zu segments", entry.count);
    entry.segments = allocate(entry.count, sizeof *entry.segments);
    for (size_t i = 0; i < entry.count; i++, segment = segment->next)
        entry.segments[i] = parse_segment(segment);
    return entry;
}

/* SPEC 7.8: the sum that comes before anything is built. */
static size_t count_segments(const Entry *entries, size_t count) {
    int64_t total = 0;
    for (size_t e = 0; e < count; e++) {
        int64_t per_layer = 0;
        for (size_t i = 0; i < entries[e].count && per_layer <= MAX_SEGMENTS; i++)
            per_layer += segments_of(&entries[e].segments[i]);
        int64_t layers = entries[e].end - entries[e].first;
        if (per_layer > MAX_SEGMENTS || layers > (MAX_SEGMENTS - total) / per_layer)
            refuse("7.1", "the layer map has more than %d segments", MAX_SEGMENTS);
        total += per_layer * layers;
    }
    if (total == 0)
        refuse("7.1", "the layer map has no segments");
    return (size_t)total;
}

/* The characters of a text: all its bytes but those that continue one. */
static size_t characters_of(String text) {
    size_t count = 0;
    for (size_t i = 0; i < text.length; i++)
        count += ((unsigned char)text.bytes[i] & 0xC0) != 0x80;
    return count;
}

/* SPEC 7.8: prefix + number + name in a run. Checks 7.2, and 7.1 with the bytes that are left for names. */
static String whole_name(const Entry *entry, int64_t number, const Segment *segment, size_t *bytes_left) {
    char digits[24] = "";
    if (entry->is_run)
        snprintf(digits, sizeof digits, "%" PRId64, number);
    size_t length = entry->prefix.length + strlen(digits) + segment->name.length;
    if (length < 1 || length > MAX_NAME)
        refuse("7.2", "a name has %zu bytes", length);
    size_t characters = characters_of(entry->prefix) + strlen(digits) + characters_of(segment->name);
    size_t bytes = (characters == length ? length : 4 * characters) * (size_t)segments_of(segment);
    if (bytes > *bytes_left)
        refuse("7.1", "the names have more than %zu bytes", MAX_NAMES);
    *bytes_left -= bytes;
    if (!entry->is_run)
        return segment->name;
    Text name = {0};
    put_string(&name, entry->prefix);
    put(&name, digits);
    put_string(&name, segment->name);
    return string_of(name);
}

/* SPEC 7.8: writes the segments that an entry stands for, and gives the place behind them. */
static Segment *unfold_entry(const Entry *entry, Segment *room, size_t *bytes_left) {
    for (int64_t number = entry->first; number < entry->end; number++) {
        for (size_t i = 0; i < entry->count; i++) {
            Segment segment = entry->segments[i];
            int64_t stacked = segments_of(&segment);
            segment.name = whole_name(entry, number, &entry->segments[i], bytes_left);
            for (int64_t k = 0; k < stacked; k++) {
                *room = segment;
                if (segment.index != NONE) {
                    room->index = segment.index + k;
                    room->index_end = segment.index + k + 1;
                }
                room++;
            }
        }
    }
    return room;
}

/* SPEC 7.2: the entries of A and B, or of rank 0 those of ΔW. Refuses the segment where they are more than `room`. */
static int64_t size_of(const Segment *segment, int64_t room) {
    int64_t rows = segment->rank == 0 ? segment->out : segment->rank;
    int64_t width = segment->rank == 0 ? segment->in : segment->in + segment->out;
    if (rows > room / width)
        refuse("1.1", "the sizes of the segments add up to more than 2^40");
    return rows * width;
}

/* SPEC 7.1: D is the sum of the sizes. */
static int64_t sum_sizes(const LayerMap *map) {
    int64_t D = 0;
    for (size_t i = 0; i < map->count; i++)
        D += size_of(&map->segments[i], MAX_ROWS - D);
    return D;
}

static int compare_segments(const void *a, const void *b) {
    const Segment *first = *(const Segment *const *)a;
    const Segment *second = *(const Segment *const *)b;
    int order = compare_strings(first->name, second->name);
    order = order != 0 ? order : ORDER(first->index, second->index);
    return order != 0 ? order : ORDER(first->row, second->row);
}

/* SPEC 7.6 for two neighbours in the order of name, index and row, which is enough: agreement carries over from one to
   the next, and where any two overlap, two neighbours do. */
static void check_neighbours(const Segment *a, const Segment *b) {
    if (!equals(a->name, b->name))
        return;
    bool same_parts = (a->row == NONE) == (b->row == NONE) && (a->index == NONE) == (b->index == NONE);
    bool same_shape = a->in == b->in && a->transposed == b->transposed && (a->row != NONE || a->out == b->out);
    if (!same_parts || !same_shape)
        refuse_named("7.6", "segments of one name disagree", a->name);
    if (a->index == b->index && (a->row == NONE || a->row + a->out > b->row))
        refuse_named("7.6", "segments overlap", a->name);
}

static void check_segments(LayerMap *map) {
    map->by_name = allocate(map->count, sizeof *map->by_name);
    for (size_t i = 0; i < map->count; i++)
        map->by_name[i] = &map->segments[i];
    qsort(map->by_name, map->count, sizeof *map->by_name, compare_segments);
    for (size_t i = 1; i < map->count; i++)
        check_neighbours(map->by_name[i - 1], map->by_name[i]);
}

static LayerMap parse_layers(const Json *list) {
    if (list->count > MAX_SEGMENTS)
        refuse("7.1", "the layer map has more than %d segments", MAX_SEGMENTS);
    Entry *entries = allocate(list->count, sizeof *entries);
    size_t count = 0;
    for (const Json *value = list->first; value != NULL; value = value->next)
        entries[count++] = parse_entry(value);
    LayerMap map = {.count = count_segments(entries, count)};
    map.segments = allocate(map.count, sizeof *map.segments);
    Segment *room = map.segments;
    size_t bytes_left = MAX_NAMES;
    for (size_t e = 0; e < count; e++)
        room = unfold_entry(&entries[e], room, &bytes_left);
    map.D = sum_sizes(&map);
    check_segments(&map);
    return map;
}

static int compare_name_with_segment(const void *name, const void *segment) {
    return compare_strings(*(const String *)name, (*(const Segment *const *)segment)->name);
}

static bool adapts(const LayerMap *map, String name) {
    return bsearch(&name, map->by_name, map->count, sizeof *map->by_name, compare_name_with_segment) != NULL;
}

/* SPEC 9.2: A begins as in 6.4 with the bound 1/√in, all else as zeros. */
static void initial_identity(const Projection *p, const LayerMap *map, float *theta) {
    int64_t j = 0;
    for (size_t i = 0; i < map->count; i++) {
        const Segment *segment = &map->segments[i];
        int64_t end_of_A = j + segment->rank * segment->in;
        int64_t end = j + size_of(segment, MAX_ROWS);
        double bound = 1.0 / sqrt((double)segment->in);
        for (; j < end_of_A; j++)
            theta[j] = initial_value(p, j, bound);
        for (; j < end; j++)
            theta[j] = 0.0f;
    }
}

/* ---- SPEC 7.9: folding ------------------------------------------------------------------------------------------- */

#define HEADS 8  /* SPEC 7.9: the numbers of a name that count */

/* A head of a name: prefix and number are its first `length` bytes. */
typedef struct {
    size_t prefix_length, length;
    int64_t number;
} Head;

/* SPEC 7.9, step 3: whether a part of a name is a number, and which; NONE where it is text. */
static int64_t part_number(String part) {
    if (part.length < 1 || part.length > 9 || (part.bytes[0] == '0' && part.length > 1))
        return NONE;
    int64_t number = 0;
    for (size_t i = 0; i < part.length; i++) {
        if (part.bytes[i] < '0' || part.bytes[i] > '9')
            return NONE;
        number = 10 * number + (part.bytes[i] - '0');
    }
    return number;
}

static int find_heads(String name, Head heads[HEADS]) {
    int count = 0;
    size_t start = 0;
    while (count < HEADS && start <= name.length) {
        size_t end = start;
        while (end < name.length && name.bytes[end] != '.')
            end++;
        int64_t number = part_number((String){name.bytes + start, end - start});
        if (number != NONE)
            heads[count++] = (Head){start, end, number};
        start = end + 1;
    }
    return count;
}

static bool has_head(String name, String head) {
    return starts_with(name, head) && (name.length == head.length || name.bytes[head.length] == '.');
}

static bool same_but_name(const Segment *a, const Segment *b) {
    return a->out == b->out && a->in == b->in && a->rank == b->rank && a->transposed == b->transposed &&
           a->row == b->row && a->index == b->index && a->index_end == b->index_end;
}

/* SPEC 7.9, step 2. Gives the number of objects. */
static size_t fold_stacks(const LayerMap *map, Segment *objects) {
    size_t count = 0;
    for (size_t i = 0; i < map->count; i++) {
        Segment *last = count > 0 ? &objects[count - 1] : NULL;
        Segment next = map->segments[i];
        if (last != NULL && next.index != NONE && next.index == last->index_end) {
            next.index = last->index;
            next.index_end = last->index_end;
            if (same_but_name(last, &next) && equals(last->name, next.name)) {
                last->index_end++;
                continue;
            }
        }
        objects[count++] = map->segments[i];
    }
    return count;
}

/* SPEC 7.9, step 3: whether copy k of the block at `block` follows, with prefix + (n + k) in place of the head. */
static bool copy_follows(const Segment *block, size_t length, Head head, size_t k) {
    char digits[24];
    snprintf(digits, sizeof digits, "%" PRId64, head.number + (int64_t)k);
    for (size_t i = 0; i < length; i++) {
        const Segment *object = &block[i];
        const Segment *copy = &block[k * length + i];
        String prefix = {object->name.bytes, head.prefix_length};
        if (!same_but_name(object, copy) || !starts_with(copy->name, prefix))
            return false;
        String rest = without_start(copy->name, head.prefix_length);
        if (!starts_with(rest, string(digits)))
            return false;
        if (!equals(without_start(rest, strlen(digits)), without_start(object->name, head.length)))
            return false;
    }
    return true;
}

/* Where the blocks at a position end: ends[h] for the head h of its name, counted from the left. All objects of a block
   share the head, and so its place among the heads of their names. So an end stays right for every position before it,
   and each object is passed once for each h. */
static size_t block_end(const Segment *objects, size_t count, size_t p, size_t ends[HEADS], int h, Head head) {
    String name = {objects[p].name.bytes, head.length};
    if (ends[h] <= p) {
        ends[h] = p + 1;
        while (ends[h] < count && has_head(objects[ends[h]].name, name))
            ends[h]++;
    }
    return ends[h];
}

/* SPEC 7.9, step 1, with the first bytes of the name left out. */
static void put_segment(Text *text, const Segment *segment, size_t left_out) {
    put_format(text, "{\"in\":%" PRId64, segment->in);
    if (segment->index_end - segment->index > 1) {
        put_format(text, ",\"index\":[%" PRId64 ",%" PRId64 "]", segment->index, segment->index_end);
    } else if (segment->index != NONE) {
        put_format(text, ",\"index\":%" PRId64, segment->index);
    }
    put(text, ",\"name\":");
    put_text(text, without_start(segment->name, left_out));
    put_format(text, ",\"out\":%" PRId64 ",\"rank\":%" PRId64, segment->out, segment->rank);
    if (segment->row != NONE)
        put_format(text, ",\"row\":%" PRId64, segment->row);
    put(text, segment->transposed ? ",\"transposed\":true}" : "}");
}

static void put_run(Text *text, const Segment *block, size_t length, Head head, size_t copies) {
    put_format(text, "{\"layers\":[%" PRId64 ",%" PRId64 "],", head.number, head.number + (int64_t)copies);
    put(text, "\"prefix\":");
    put_text(text, (String){block->name.bytes, head.prefix_length});
    put(text, ",\"segments\":[");
    for (size_t i = 0; i < length; i++) {
        put(text, i > 0 ? "," : "");
        put_segment(text, &block[i], head.length);
    }
    put(text, "]}");
}

/* SPEC 7.9, step 3 at position p: writes a run or the object, and gives the next position. */
static size_t put_entry(Text *text, const Segment *objects, size_t count, size_t p, size_t ends[HEADS]) {
    Head heads[HEADS];
    int head_count = find_heads(objects[p].name, heads);
    for (int h = 0; h < head_count; h++) {
        size_t length = block_end(objects, count, p, ends, h, heads[h]) - p;
        size_t copies = 1;
        while (p + (copies + 1) * length <= count && copy_follows(&objects[p], length, heads[h], copies))
            copies++;
        if (copies >= 2) {
            put_run(text, &objects[p], length, heads[h], copies);
            return p + copies * length;
        }
    }
    put_segment(text, &objects[p], 0);
    return p + 1;
}

static void put_layers(Text *text, const LayerMap *map) {
    Segment *objects = allocate(map->count, sizeof *objects);
    size_t count = fold_stacks(map, objects);
    size_t ends[HEADS] = {0};
    size_t p = 0;
    put(text, "[");
    while (p < count) {
        put(text, p > 0 ? "," : "");
        p = put_entry(text, objects, count, p, ends);
    }
    put(text, "]");
}

/* ---- SPEC 8.6: the description ----------------------------------------------------------------------------------- */

typedef struct {
    Projection projection;
    LayerMap map;
    double alpha;
    bool rslora;
    const Json *base;  /* checked, or NULL */
} Description;

static bool is_hexadecimal(String text) {
    bool good = true;
    for (size_t i = 0; good && i < text.length; i++)
        good = memchr("0123456789abcdef", text.bytes[i], 16) != NULL;
    return good;
}

static void check_fingerprint(String text) {
    if (text.length != 32 || !is_hexadecimal(text))
        refuse("8.6", "a fingerprint is not 32 hexadecimal digits in small letters");
}

static void check_base(const Json *base) {
    check_fields(base, FIELDS("name", "structure", "contents", "architecture", "labels", "problem_type", "rest"), "8.6");
    field(base, "name", JSON_TEXT, "8.6");
    check_fingerprint(field(base, "structure", JSON_TEXT, "8.6")->text);
    check_fingerprint(field(base, "contents", JSON_TEXT, "8.6")->text);
    optional_field(base, "architecture", JSON_TEXT, "8.6");
    const Json *labels = optional_field(base, "labels", JSON_LIST, "8.6");
    for (const Json *label = labels == NULL ? NULL : labels->first; label != NULL; label = label->next)
        check_type(label, JSON_TEXT, "8.6", "a label");
    const Json *outputs = optional_field(base, "problem_type", JSON_TEXT, "8.6");
    if (outputs != NULL && !is(outputs->text, "regression") && !is(outputs->text, "single_label_classification")
        && !is(outputs->text, "multi_label_classification"))
        refuse_named("8.6", "there is no such problem_type", outputs->text);
    const Json *rest = optional_field(base, "rest", JSON_TEXT, "8.6");
    if (rest != NULL && (rest->text.length % 16 != 0 || !is_hexadecimal(rest->text)))
        refuse("8.6", "the rest of the base is not 16 hexadecimal digits in small letters for each group");
}

/* The kind of the projection comes first: a file of another kind may differ in all else (9.1). */
static Description parse_description(const Json *value) {
    check_type(value, JSON_OBJECT, "8.6", "the description");
    Description description = {0};
    description.projection = parse_projection(field(value, "projection", JSON_OBJECT, "8.6"));
    check_fields(value, FIELDS("projection", "alpha", "layers", "scaling", "base"), "8.6");
    description.alpha = field(value, "alpha", JSON_NUMBER, "8.6")->number;
    if (!(description.alpha >= 1e-4 && description.alpha <= 1048576.0))
        refuse("7.7", "alpha is %g, not in 10^-4 to 2^20", description.alpha);
    const Json *scaling = optional_field(value, "scaling", JSON_TEXT, "8.6");
    description.rslora = scaling != NULL && is(scaling->text, "rslora");
    if (scaling != NULL && !description.rslora && !is(scaling->text, "lora"))
        refuse_named("8.6", "the scaling is neither lora nor rslora", scaling->text);
    description.base = optional_field(value, "base", JSON_OBJECT, "8.6");
    if (description.base != NULL)
        check_base(description.base);
    description.map = parse_layers(field(value, "layers", JSON_LIST, "8.6"));
    if (description.map.D != description.projection.D)
        refuse("8.8", "D is not the %" PRId64 " of the layer map", description.map.D);
    return description;
}

static void put_text_or_texts(Text *text, const Json *value) {
    if (value->type == JSON_TEXT) {
        put_text(text, value->text);
        return;
    }
    put(text, "[");
    for (const Json *item = value->first; item != NULL; item = item->next) {
        put_text(text, item->text);
        put(text, item->next != NULL ? "," : "");
    }
    put(text, "]");
}

static void put_base(Text *text, const Json *base) {
    static const char *const keys[] = {
        "architecture", "contents", "labels", "name", "problem_type", "rest", "structure",
    };
    put(text, ",\"base\":{");
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const Json *value = find_field(base, keys[i]);
        if (value != NULL) {
            bool is_last = i + 1 == sizeof keys / sizeof keys[0];
            put_format(text, "\"%s\":", keys[i]);
            put_text_or_texts(text, value);
            put(text, is_last ? "}" : ",");
        }
    }
}

static String canonical_description(const Description *description) {
    const Projection *projection = &description->projection;
    Text text = {0};
    put(&text, "{\"alpha\":");
    put_decimal(&text, description->alpha);
    if (description->base != NULL)
        put_base(&text, description->base);
    put(&text, ",\"layers\":");
    put_layers(&text, &description->map);
    put_format(&text, ",\"projection\":{\"D\":%" PRId64 ",\"d\":%" PRId64, projection->D, projection->d);
    put_format(&text, ",\"kind\":\"%s\",\"seed\":\"%" PRIu64 "\"}", kind_names[projection->kind], projection->seed);
    put(&text, description->rslora ? ",\"scaling\":\"rslora\"}" : "}");
    return string_of(text);
}

/* ---- SPEC 8.3: tensors ------------------------------------------------------------------------------------------- */

typedef enum { F32, F16, BF16, DTYPES } Dtype;

static const char *const dtype_names[DTYPES] = {"F32", "F16", "BF16"};
static const int64_t dtype_sizes[DTYPES] = {4, 2, 2};

typedef struct {
    String name;  /* in the file: theta, or saved. and the parameter's name */
    Dtype dtype;
    int64_t *shape;
    size_t dimensions;
    int64_t bytes;
    int64_t begin, end;   /* in the data of a file */
    const uint8_t *data;  /* as stored */
} Tensor;

typedef struct {
    Description description;
    Tensor *tensors;
    size_t count;
} Adapter;

static bool is_theta(const Tensor *tensor) {
    return is(tensor->name, "theta");
}

static String parameter_name(const Tensor *tensor) {
    return without_start(tensor->name, strlen("saved."));
}

static int64_t element_count(const Tensor *tensor) {
    return tensor->bytes / dtype_sizes[tensor->dtype];
}

static float widen_float16(uint16_t bits) {
    int exponent = bits >> 10 & 31;
    int mantissa = bits & 1023;
    float magnitude = exponent == 0 ? ldexpf((float)mantissa, -24) : ldexpf((float)(1024 + mantissa), exponent - 25);
    if (exponent == 31)
        magnitude = mantissa == 0 ? INFINITY : NAN;
    return bits & 0x8000 ? -magnitude : magnitude;
}

/* Of a finite value. Between two powers of two, float16 counts in steps of 2^spacing; below its normal range, in those
   of the lowest normal numbers. A count that rounds up to the next power of two carries into the exponent. */
static uint16_t round_float16(float value) {
    int exponent;
    frexpf(value, &exponent);
    int spacing = exponent - 11 > -24 ? exponent - 11 : -24;
    long steps = lrintf(ldexpf(fabsf(value), -spacing));
    long bits = steps == 0 ? 0 : steps + 1024L * (spacing + 24);
    if (bits > 0x7C00)
        bits = 0x7C00;
    return (uint16_t)(bits | (signbit(value) ? 0x8000 : 0));
}

static float widen(Dtype dtype, const uint8_t *element) {
    uint32_t bits = 0;
    memcpy(&bits, element, (size_t)dtype_sizes[dtype]);
    if (dtype == F16)
        return widen_float16((uint16_t)bits);
    bits <<= dtype == BF16 ? 16 : 0;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Of a finite value. */
static void narrow(Dtype dtype, float value, uint8_t *element) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (dtype == F16) {
        bits = round_float16(value);
    } else if (dtype == BF16) {
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    }
    memcpy(element, &bits, (size_t)dtype_sizes[dtype]);
}

static void check_values(const Tensor *tensor) {
    int64_t size = dtype_sizes[tensor->dtype];
    for (int64_t i = 0; i < element_count(tensor); i++) {
        if (!isfinite(widen(tensor->dtype, tensor->data + i * size)))
            refuse_named("8.3", "NaN or an infinity in the tensor", tensor->name);
    }
}

static Dtype parse_dtype(const Json *value) {
    for (Dtype dtype = 0; dtype < DTYPES; dtype++) {
        if (is(value->text, dtype_names[dtype]))
            return dtype;
    }
    refuse_named("8.3", "the dtype is none of F32, F16 and BF16", value->text);
}

/* SPEC 8.2: shape and bytes, with the limit on the other numbers where one is 0. */
static void parse_shape(const Json *list, Tensor *tensor) {
    if (list->count > MAX_DIMENSIONS)
        refuse("8.2", "a shape has more than %d numbers", MAX_DIMENSIONS);
    tensor->shape = allocate(list->count, sizeof *tensor->shape);
    int64_t bytes = dtype_sizes[tensor->dtype];
    bool is_empty = false;
    for (const Json *value = list->first; value != NULL; value = value->next) {
        int64_t number = whole_number(value, 0, MAX_WHOLE, "8.2", "a number of a shape");
        tensor->shape[tensor->dimensions++] = number;
        if (number == 0) {
            is_empty = true;
        } else if (bytes > MAX_WHOLE / number) {
            refuse("8.2", "a shape is of 2^53 bytes or more");
        } else {
            bytes *= number;
        }
    }
    tensor->bytes = is_empty ? 0 : bytes;
}

/* The fields that a tensor has in a file and in a request. */
static Tensor parse_tensor(const Json *value) {
    Tensor tensor = {.name = value->key};
    tensor.dtype = parse_dtype(field(value, "dtype", JSON_TEXT, "8.2"));
    parse_shape(field(value, "shape", JSON_LIST, "8.2"), &tensor);
    return tensor;
}

/* SPEC 8.3, 8.8 */
static void check_agreement(const Adapter *adapter) {
    bool has_theta = false;
    for (size_t i = 0; i < adapter->count; i++) {
        const Tensor *tensor = &adapter->tensors[i];
        if (is_theta(tensor)) {
            has_theta = true;
            if (tensor->dimensions != 1 || tensor->shape[0] != adapter->description.projection.d)
                refuse("8.8", "the shape of theta is not [%" PRId64 "]", adapter->description.projection.d);
        } else if (!starts_with(tensor->name, string("saved.")) || parameter_name(tensor).length == 0) {
            refuse_named("8.3", "a tensor is neither theta nor saved", tensor->name);
        } else if (adapts(&adapter->description.map, parameter_name(tensor))) {
            refuse_named("8.8", "a parameter is both adapted and saved", parameter_name(tensor));
        }
    }
    if (!has_theta)
        refuse("8.3", "there is no tensor theta");
}

/* ---- SPEC 8: the file, read -------------------------------------------------------------------------------------- */

/* SPEC 8.2: the header, its length first. */
static String header_of(String file) {
    uint64_t length;
    if (file.length < sizeof length)
        refuse("8.2", "the file has %zu bytes", file.length);
    memcpy(&length, file.bytes, sizeof length);
    if (length > MAX_HEADER || length > file.length - sizeof length)
        refuse("8.2", "a header of %" PRIu64 " bytes is longer than %d or than the file", length, MAX_HEADER);
    if (length == 0 || file.bytes[sizeof length] != '{')
        refuse("8.2", "the header does not begin with {");
    return (String){file.bytes + sizeof length, (size_t)length};
}

/* SPEC 8.4: the description's text. Format and version come before all else. */
static String parse_metadata(const Json *header) {
    const Json *metadata = find_field(header, "__metadata__");
    if (metadata == NULL)
        refuse("8.4", "there is no __metadata__: this is no file of Uni-LoRA");
    check_type(metadata, JSON_OBJECT, "8.2", "__metadata__");
    if (!is(field(metadata, "format", JSON_TEXT, "8.4")->text, "unilora"))
        refuse_named("8.4", "the format is not unilora", find_field(metadata, "format")->text);
    String version = field(metadata, "version", JSON_TEXT, "8.4")->text;
    if (!is(version, "1"))
        refuse_named("8.4", "this reader knows version 1, and the file has the version", version);
    String description = field(metadata, "unilora", JSON_TEXT, "8.4")->text;
    if (metadata->count != 3)
        refuse("8.4", "__metadata__ has %zu fields, not 3", metadata->count);
    return description;
}

/* SPEC 8.2 */
static Tensor parse_stored_tensor(const Json *value) {
    check_type(value, JSON_OBJECT, "8.2", "a tensor");
    check_fields(value, FIELDS("dtype", "shape", "data_offsets"), "8.2");
    Tensor tensor = parse_tensor(value);
    const Json *offsets = field(value, "data_offsets", JSON_LIST, "8.2");
    if (offsets->count != 2)
        refuse("8.2", "data_offsets are not two numbers");
    tensor.begin = whole_number(offsets->first, 0, MAX_WHOLE, "8.2", "an offset");
    tensor.end = whole_number(offsets->first->next, 0, MAX_WHOLE, "8.2", "an offset");
    if (tensor.end - tensor.begin != tensor.bytes)
        refuse_named("8.2", "data_offsets and shape do not agree in the tensor", tensor.name);
    return tensor;
}

static int compare_places(const void *a, const void *b) {
    const Tensor *first = a;
    const Tensor *second = b;
    return first->begin != second->begin ? ORDER(first->begin, second->begin) : ORDER(first->end, second->end);
}

/* SPEC 8.2: all of the file's data belongs to one tensor each. */
static void place_tensors(Adapter *adapter, String data) {
    int64_t end = 0;
    qsort(adapter->tensors, adapter->count, sizeof *adapter->tensors, compare_places);
    for (size_t i = 0; i < adapter->count; i++) {
        if (adapter->tensors[i].begin != end)
            refuse_named("8.2", "the tensor does not begin where the last one ended", adapter->tensors[i].name);
        end = adapter->tensors[i].end;
    }
    if ((uint64_t)end != data.length)
        refuse("8.2", "the tensors have %" PRId64 " bytes, and the file %zu", end, data.length);
    for (size_t i = 0; i < adapter->count; i++)
        adapter->tensors[i].data = data.bytes + adapter->tensors[i].begin;
}

static Adapter read_adapter(String file) {
    String header_text = header_of(file);
    const Json *header = parse_json(header_text);
    Adapter adapter = {.description = parse_description(parse_json(parse_metadata(header)))};
    adapter.tensors = allocate(header->count, sizeof *adapter.tensors);
    for (const Json *value = header->first; value != NULL; value = value->next) {
        if (!is(value->key, "__metadata__"))
            adapter.tensors[adapter.count++] = parse_stored_tensor(value);
    }
    place_tensors(&adapter, without_start(file, sizeof(uint64_t) + header_text.length));
    check_agreement(&adapter);
    for (size_t i = 0; i < adapter.count; i++)
        check_values(&adapter.tensors[i]);
    return adapter;
}

/* ---- SPEC 8.7: the canonical file -------------------------------------------------------------------------------- */

static int compare_for_data(const void *a, const void *b) {
    const Tensor *first = a;
    const Tensor *second = b;
    int order = ORDER(dtype_sizes[second->dtype], dtype_sizes[first->dtype]);
    return order != 0 ? order : compare_strings(first->name, second->name);
}

/* Orders the tensors as their data lies in the canonical file, and gives each its place there. */
static void lay_out(Adapter *adapter) {
    int64_t end = 0;
    qsort(adapter->tensors, adapter->count, sizeof *adapter->tensors, compare_for_data);
    for (size_t i = 0; i < adapter->count; i++) {
        adapter->tensors[i].begin = end;
        end += adapter->tensors[i].bytes;
        adapter->tensors[i].end = end;
    }
}

static int compare_for_header(const void *a, const void *b) {
    return compare_utf16((*(const Tensor *const *)a)->name, (*(const Tensor *const *)b)->name);
}

static void put_shape(Text *text, const Tensor *tensor) {
    put(text, "[");
    for (size_t i = 0; i < tensor->dimensions; i++)
        put_format(text, i > 0 ? ",%" PRId64 : "%" PRId64, tensor->shape[i]);
    put(text, "]");
}

static void put_stored_tensor(Text *text, const Tensor *tensor) {
    put(text, ",");
    put_text(text, tensor->name);
    put_format(text, ":{\"data_offsets\":[%" PRId64 ",%" PRId64 "],", tensor->begin, tensor->end);
    put_format(text, "\"dtype\":\"%s\",\"shape\":", dtype_names[tensor->dtype]);
    put_shape(text, tensor);
    put(text, "}");
}

/* Of tensors that are laid out. __metadata__ is first: _ comes before the s and the t of the other keys. */
static String canonical_header(const Adapter *adapter, String description) {
    const Tensor **by_name = allocate(adapter->count, sizeof *by_name);
    for (size_t i = 0; i < adapter->count; i++)
        by_name[i] = &adapter->tensors[i];
    qsort(by_name, adapter->count, sizeof *by_name, compare_for_header);
    Text text = {0};
    put(&text, "{\"__metadata__\":{\"format\":\"unilora\",\"unilora\":");
    put_text(&text, description);
    put(&text, ",\"version\":\"1\"}");
    for (size_t i = 0; i < adapter->count; i++)
        put_stored_tensor(&text, by_name[i]);
    put(&text, "}");
    while (text.length % 8 != 0)
        put(&text, " ");
    return string_of(text);
}

/* SPEC 8.10. Where the header is the canonical one, so is the data: the header says where all of it lies. */
static bool is_canonical(Adapter *adapter, String description, String header) {
    if (description.length > MAX_HEADER)
        return false;
    lay_out(adapter);
    return equals(canonical_header(adapter, description), header);
}

static String write_adapter(Adapter *adapter) {
    lay_out(adapter);
    String header = canonical_header(adapter, canonical_description(&adapter->description));
    if (header.length > MAX_HEADER)
        refuse("8.2", "the header would have %zu bytes, more than %d", header.length, MAX_HEADER);
    Text file = {0};
    uint64_t length = header.length;
    memcpy(extend(&file, sizeof length), &length, sizeof length);
    put_string(&file, header);
    for (size_t i = 0; i < adapter->count; i++)
        put_string(&file, (String){adapter->tensors[i].data, (size_t)adapter->tensors[i].bytes});
    return string_of(file);
}

/* ---- PROTOCOL.md: fields of requests and of answers -------------------------------------------------------------- */

/* An array of a request. */
typedef struct {
    void *elements;
    int64_t count;
} Array;

static Array decode_array(const Json *object, const char *key, size_t element_size) {
    String bytes = decode_base64(field(object, key, JSON_TEXT, NULL)->text);
    if (bytes.length % element_size != 0)
        refuse(NULL, "the array %s is not of elements of %zu bytes", key, element_size);
    return (Array){(void *)bytes.bytes, (int64_t)(bytes.length / element_size)};
}

/* Refuses what no answer can hold, as base64 makes four bytes of three, before anything is allocated for it. */
static void check_room(int64_t count, size_t element_size) {
    if ((uint64_t)count > MAX_ANSWER / 4 * 3 / element_size)
        refuse(NULL, "the answer would have more than 64 MB");
}

static void *answer_array(int64_t count, size_t element_size) {
    check_room(count, element_size);
    return allocate((size_t)count, element_size);
}

static void put_key(Text *answer, const char *key) {
    bool is_first = answer->bytes[answer->length - 1] == '{';
    put_format(answer, is_first ? "\"%s\": " : ", \"%s\": ", key);
}

static void put_array(Text *answer, const char *key, const void *elements, int64_t count, size_t element_size) {
    put_key(answer, key);
    put(answer, "\"");
    put_base64(answer, elements, (size_t)count * element_size);
    put(answer, "\"");
}

static uint64_t seed_field(const Json *request) {
    return parse_seed(field(request, "seed", JSON_TEXT, "8.6")->text);
}

static Projection projection_field(const Json *request) {
    return parse_projection(field(request, "projection", JSON_OBJECT, "8.6"));
}

/* SPEC 1.3: the slice [start, stop) of [0, end). */
typedef struct {
    int64_t start, stop;
} Slice;

static Slice slice_fields(const Json *request, int64_t end) {
    Slice slice;
    slice.start = whole_field(request, "start", -MAX_WHOLE, MAX_WHOLE, "1.3");
    slice.stop = whole_field(request, "stop", -MAX_WHOLE, MAX_WHOLE, "1.3");
    if (slice.start < 0 || slice.start > slice.stop || slice.stop > end)
        refuse("1.3", "[%" PRId64 ", %" PRId64 ") is not a range of [0, %" PRId64 ")", slice.start, slice.stop, end);
    return slice;
}

/* SPEC 1.3: a vector of the right length. */
static const float *vector_field(const Json *request, const char *key, int64_t count) {
    Array vector = decode_array(request, key, sizeof(float));
    if (vector.count != count)
        refuse("1.3", "%s has %" PRId64 " numbers, not %" PRId64, key, vector.count, count);
    return vector.elements;
}

/* ---- PROTOCOL.md: the requests ----------------------------------------------------------------------------------- */

static void answer_describe(const Json *request, Text *answer);

static void answer_keys(const Json *request, Text *answer) {
    uint32_t keys[KEYS];
    derive_keys(seed_field(request), keys);
    put_array(answer, "keys", keys, KEYS, sizeof *keys);
}

static void answer_mix(const Json *request, Text *answer) {
    Array words = decode_array(request, "words", sizeof(uint32_t));
    uint32_t key = (uint32_t)whole_field(request, "key", 0, UINT32_MAX, "3.1");
    uint32_t *mixed = words.elements;
    for (int64_t i = 0; i < words.count; i++)
        mixed[i] = mix(mixed[i], key);
    put_array(answer, "mixed", mixed, words.count, sizeof *mixed);
}

static void answer_walk(const Json *request, Text *answer, const char *from, const char *to,
                        int64_t (*walk)(const Projection *p, int64_t number)) {
    int64_t D = whole_field(request, "D", -MAX_WHOLE, MAX_WHOLE, "1.1");
    Projection projection = make_projection(BALANCED, seed_field(request), 1, D);
    Array array = decode_array(request, from, sizeof(int64_t));
    int64_t *numbers = array.elements;
    for (int64_t i = 0; i < array.count; i++) {
        if (numbers[i] < 0 || numbers[i] >= D)
            refuse("1.3", "%" PRId64 " is not in [0, %" PRId64 ")", numbers[i], D);
        numbers[i] = walk(&projection, numbers[i]);
    }
    put_array(answer, to, numbers, array.count, sizeof *numbers);
}

static void answer_permutation(const Json *request, Text *answer) {
    answer_walk(request, answer, "x", "y", permute);
}

static void answer_inverse(const Json *request, Text *answer) {
    answer_walk(request, answer, "y", "x", permute_back);
}

static void answer_index(const Json *request, Text *answer) {
    Projection projection = projection_field(request);
    Slice rows = slice_fields(request, projection.D);
    int64_t count = rows.stop - rows.start;
    int64_t *index = answer_array(count, sizeof *index);
    for (int64_t i = 0; i < count; i++)
        index[i] = index_of(&projection, rows.start + i);
    put_array(answer, "index", index, count, sizeof *index);
}

static void answer_members(const Json *request, Text *answer) {
    Projection projection = projection_field(request);
    Slice columns = slice_fields(request, projection.d);
    int64_t count = columns.stop - columns.start;
    int64_t *counts = answer_array(count, sizeof *counts);
    count_members(&projection, columns.start, columns.stop, counts);
    int64_t total = 0;
    for (int64_t j = 0; j < count; j++)
        total += counts[j];
    int64_t *members = answer_array(total, sizeof *members);
    list_members(&projection, columns.start, columns.stop, counts, members);
    put_array(answer, "counts", counts, count, sizeof *counts);
    put_array(answer, "members", members, total, sizeof *members);
}

static void answer_scale(const Json *request, Text *answer) {
    Projection projection = projection_field(request);
    Slice columns = slice_fields(request, projection.d);
    int64_t count = columns.stop - columns.start;
    check_room(count, sizeof(float));
    const float *scales = column_scales(&projection, columns.start, columns.stop);
    put_array(answer, "scale", scales, count, sizeof *scales);
}

static void answer_initial(const Json *request, Text *answer) {
    Projection projection = projection_field(request);
    float *theta = answer_array(projection.d, sizeof *theta);
    if (projection.kind == IDENTITY) {
        LayerMap map = parse_layers(field(request, "layers", JSON_LIST, "7.8"));
        if (map.D != projection.D)
            refuse("9.2", "D is not the %" PRId64 " of the layer map", map.D);
        initial_identity(&projection, &map, theta);
    } else {
        initial(&projection, field(request, "bound", JSON_NUMBER, NULL)->number, theta);
    }
    put_array(answer, "theta", theta, projection.d, sizeof *theta);
}

static void answer_expand(const Json *request, Text *answer) {
    Projection projection = projection_field(request);
    Slice rows = slice_fields(request, projection.D);
    const float *theta = vector_field(request, "theta", projection.d);
    float *theta_D = answer_array(rows.stop - rows.start, sizeof *theta_D);
    expand(&projection, theta, rows.start, rows.stop, theta_D);
    put_array(answer, "theta_D", theta_D, rows.stop - rows.start, sizeof *theta_D);
}

static void answer_adjoint(const Json *request, Text *answer) {
    Projection projection = projection_field(request);
    Slice rows = slice_fields(request, projection.D);
    const float *g = vector_field(request, "g", rows.stop - rows.start);
    float *theta = answer_array(projection.d, sizeof *theta);
    adjoint(&projection, g, rows.start, rows.stop, theta);
    put_array(answer, "theta", theta, projection.d, sizeof *theta);
}

static void put_tensor(Text *answer, const Tensor *tensor) {
    int64_t count = element_count(tensor);
    int64_t size = dtype_sizes[tensor->dtype];
    float *values = answer_array(count, sizeof *values);
    for (int64_t i = 0; i < count; i++)
        values[i] = widen(tensor->dtype, tensor->data + i * size);
    put_format(answer, "{\"dtype\": \"%s\", \"shape\": ", dtype_names[tensor->dtype]);
    put_shape(answer, tensor);
    put_array(answer, "values", values, count, sizeof *values);
    put(answer, "}");
}

static void answer_read(const Json *request, Text *answer) {
    Array bytes = decode_array(request, "file", 1);
    String file = {bytes.elements, (size_t)bytes.count};
    Adapter adapter = read_adapter(file);
    String description = canonical_description(&adapter.description);
    put_key(answer, "description");
    put_text(answer, description);
    put_key(answer, "tensors");
    put(answer, "{");
    for (size_t i = 0; i < adapter.count; i++) {
        put(answer, i > 0 ? ", " : "");
        put_text(answer, adapter.tensors[i].name);
        put(answer, ": ");
        put_tensor(answer, &adapter.tensors[i]);
    }
    put(answer, "}");
    put_key(answer, "canonical");
    put(answer, is_canonical(&adapter, description, header_of(file)) ? "true" : "false");
}

/* SPEC 8.3: a tensor of a request, rounded to its dtype. */
static Tensor round_tensor(const Json *value) {
    check_type(value, JSON_OBJECT, "8.2", "a tensor");
    Tensor tensor = parse_tensor(value);
    Array values = decode_array(value, "values", sizeof(float));
    int64_t count = element_count(&tensor);
    if (values.count != count)
        refuse("8.2", "the shape holds %" PRId64 " values, not %" PRId64, count, values.count);
    int64_t size = dtype_sizes[tensor.dtype];
    uint8_t *data = allocate((size_t)count, (size_t)size);
    for (int64_t i = 0; i < count; i++) {
        float number = ((const float *)values.elements)[i];
        if (!isfinite(number))
            refuse_named("8.3", "NaN or an infinity in the tensor", tensor.name);
        narrow(tensor.dtype, number, data + i * size);
    }
    tensor.data = data;
    check_values(&tensor);
    return tensor;
}

static void answer_write(const Json *request, Text *answer) {
    Adapter adapter = {.description = parse_description(field(request, "description", JSON_OBJECT, "8.6"))};
    const Json *tensors = field(request, "tensors", JSON_OBJECT, NULL);
    adapter.tensors = allocate(tensors->count, sizeof *adapter.tensors);
    for (const Json *value = tensors->first; value != NULL; value = value->next)
        adapter.tensors[adapter.count++] = round_tensor(value);
    check_agreement(&adapter);
    String file = write_adapter(&adapter);
    put_array(answer, "file", file.bytes, (int64_t)file.length, 1);
}

/* ---- PROTOCOL.md: from line to line ------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    void (*answer)(const Json *request, Text *answer);
} requests[] = {
    {"describe", answer_describe},
    {"keys", answer_keys},
    {"mix", answer_mix},
    {"permutation", answer_permutation},
    {"inverse", answer_inverse},
    {"index", answer_index},
    {"members", answer_members},
    {"scale", answer_scale},
    {"initial", answer_initial},
    {"expand", answer_expand},
    {"adjoint", answer_adjoint},
    {"read", answer_read},
    {"write", answer_write},
};

#define REQUESTS (sizeof requests / sizeof requests[0])

static void answer_describe(const Json *request, Text *answer) {
    (void)request;
    put(answer, "\"name\": \"unilora.c\", \"version\": \"1\", \"requests\": [");
    for (size_t i = 0; i < REQUESTS; i++)
        put_format(answer, i > 0 ? ", \"%s\"" : "\"%s\"", requests[i].name);
    put(answer, "], \"kinds\": [");
    for (Kind kind = 0; kind < KINDS; kind++)
        put_format(answer, kind > 0 ? ", \"%s\"" : "\"%s\"", kind_names[kind]);
    put(answer, "]");
}

static String answer_request(String line) {
    if (line.length > MAX_REQUEST)
        refuse(NULL, "the request has more than 16 MB");
    const Json *request = parse_json(line);
    check_type(request, JSON_OBJECT, NULL, "a request");
    String name = field(request, "request", JSON_TEXT, NULL)->text;
    for (size_t i = 0; i < REQUESTS; i++) {
        if (is(name, requests[i].name)) {
            Text answer = {0};
            put(&answer, "{");
            requests[i].answer(request, &answer);
            put(&answer, "}");
            return string_of(answer);
        }
    }
    refuse(NULL, "unknown request");
}

static String answer_refusal(void) {
    Text answer = {0};
    put(&answer, "{\"refused\": ");
    put_format(&answer, refusal.rule == NULL ? "null" : "\"%s\"", refusal.rule);
    put(&answer, ", \"message\": ");
    put_text(&answer, string(refusal.message));
    put(&answer, "}");
    return string_of(answer);
}

static String answer_line(String line) {
    if (setjmp(refused) != 0)
        return answer_refusal();
    return answer_request(line);
}

/* False at the end of the input. Of a request that is too long, it keeps enough to tell that. */
static bool read_line(String *line) {
    uint8_t *bytes = NULL;
    size_t length = 0;
    size_t capacity = 0;
    int c = getchar();
    if (c == EOF)
        return false;
    for (; c != EOF && c != '\n'; c = getchar()) {
        if (length == capacity && length <= MAX_REQUEST) {
            capacity = 2 * capacity + 4096;
            bytes = reallocate(bytes, capacity);
        }
        if (length < capacity)
            bytes[length++] = (uint8_t)c;
    }
    *line = (String){bytes, length};
    return true;
}

int main(void) {
    String line;
    while (read_line(&line)) {
        String answer = answer_line(line);
        fwrite(answer.bytes, 1, answer.length, stdout);
        putchar('\n');
        fflush(stdout);
        free_all();
    }
    return EXIT_SUCCESS;
}
