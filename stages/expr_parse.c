/*
 * Expressions: from text to tree. Lua 5.4's expression grammar without what the tree cannot run:
 * tables, functions, indexing by brackets, method calls, bit operators, long strings. Those give
 * EXPR_E_UNSUPPORTED, and Lua runs the expression instead.
 *
 * The hard idea: this parser may refuse what Lua takes, but must never read differently what both
 * take. So the precedence table is Lua's, `..` and `^` lean right, unary binds weaker than `^`, and
 * numbers too large for an integer become floats.
 *
 * A name with dots is one path: it has to be written without blanks. A name before "(" is a
 * function.
 */
#include "stages/expr_tree.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum token {
	T_END,
	T_NAME,
	T_LITERAL,
	T_OPEN,
	T_CLOSE,
	T_COMMA,
	T_BINARY, /* .op */
	T_MINUS,  /* unary or binary */
	T_NOT,
	T_LENGTH,
	T_OTHER, /* something only Lua knows */
};

struct parser {
	struct expr_tree *t;
	const char *text, *p, *end;
	size_t pool_cap;
	enum token token;
	enum expr_op op;
	const char *at; /* where the token starts */
	struct expr_val literal;
	unsigned depth;
	char *why;
	size_t why_size;
};

/* Lua's: manual 3.4.8. Left and right binding power. */
static const struct {
	uint8_t left, right;
} power[] = {
        [EXPR_OR] = {1, 1},    [EXPR_AND] = {2, 2},    [EXPR_LT] = {3, 3},
        [EXPR_GT] = {3, 3},    [EXPR_LE] = {3, 3},     [EXPR_GE] = {3, 3},
        [EXPR_NE] = {3, 3},    [EXPR_EQ] = {3, 3},     [EXPR_CONCAT] = {9, 8},
        [EXPR_ADD] = {10, 10}, [EXPR_SUB] = {10, 10},  [EXPR_MUL] = {11, 11},
        [EXPR_DIV] = {11, 11}, [EXPR_IDIV] = {11, 11}, [EXPR_MOD] = {11, 11},
        [EXPR_POW] = {14, 13},
};

enum {
	POWER_UNARY = 12,
};

static const char *const lua_words[] = {
        "break", "do", "else",  "elseif", "end",    "for",  "function", "goto",
        "if",    "in", "local", "repeat", "return", "then", "until",    "while",
};

static int syntax(struct parser *x, const char *what)
{
	snprintf(x->why, x->why_size, "%s", what);
	return EXPR_E_SYNTAX;
}

static bool word_is(const char *p, size_t len, const char *word)
{
	return strlen(word) == len && memcmp(p, word, len) == 0;
}

static bool name_char(char c)
{
	return isalnum((unsigned char)c) || c == '_';
}

static void set_token(struct parser *x, enum token t, size_t len)
{
	x->token = t;
	x->p += len;
}

static void set_binary(struct parser *x, enum expr_op op, size_t len)
{
	x->op = op;
	set_token(x, T_BINARY, len);
}

/* Puts the token's literal into the pool as msgpack. */
static void pool_literal(struct parser *x, const struct mp *v)
{
	uint8_t *p = x->t->pool + x->t->pool_len;
	uint8_t *q = mp_write(p, v);
	x->t->pool_len += (size_t)(q - p);
	expr_val_field(&x->literal, p, (uint32_t)(q - p));
}

static int literal_word(struct parser *x, const char *p, size_t len)
{
	struct mp v = {.type = MP_NIL};
	if (word_is(p, len, "true") || word_is(p, len, "false"))
		v = (struct mp){.type = MP_BOOL, .b = p[0] == 't'};
	else if (!word_is(p, len, "nil"))
		return EXPR_E_UNSUPPORTED;
	pool_literal(x, &v);
	set_token(x, T_LITERAL, len);
	return 0;
}

bool expr_parse_constant(const char *name, size_t len)
{
	static const char *const constants[] = {"null",
	                                        "math.pi",
	                                        "math.huge",
	                                        "math.maxinteger",
	                                        "math.mininteger",
	                                        "utf8.charpattern"};
	for (size_t i = 0; i < sizeof(constants) / sizeof(*constants); i++)
		if (word_is(name, len, constants[i]))
			return true;
	return false;
}

static int scan_name(struct parser *x)
{
	const char *q = x->p;
	while (q < x->end && name_char(*q))
		q++;
	size_t len = (size_t)(q - x->p);
	if (word_is(x->p, len, "and") || word_is(x->p, len, "or")) {
		set_binary(x, len == 3 ? EXPR_AND : EXPR_OR, len);
		return 0;
	}
	if (word_is(x->p, len, "not")) {
		set_token(x, T_NOT, len);
		return 0;
	}
	if (literal_word(x, x->p, len) == 0)
		return 0;
	for (size_t i = 0; i < sizeof(lua_words) / sizeof(*lua_words); i++)
		if (word_is(x->p, len, lua_words[i]))
			return EXPR_E_UNSUPPORTED;
	while (q + 1 < x->end && *q == '.' && (isalpha((unsigned char)q[1]) || q[1] == '_'))
		for (q++; q < x->end && name_char(*q);)
			q++;
	if (expr_parse_constant(x->p, (size_t)(q - x->p)))
		return EXPR_E_UNSUPPORTED;
	set_token(x, T_NAME, (size_t)(q - x->p));
	return 0;
}

static int scan_number(struct parser *x)
{
	const char *q = x->p;
	bool whole = true;
	if (q + 1 < x->end && q[0] == '0' && (q[1] | 32) == 'x')
		return EXPR_E_UNSUPPORTED;
	while (q < x->end && (isalnum((unsigned char)*q) || *q == '.' ||
	                      ((*q == '-' || *q == '+') && (q[-1] | 32) == 'e'))) {
		whole = whole && isdigit((unsigned char)*q);
		q++;
	}
	size_t len = (size_t)(q - x->p);
	char text[64];
	if (len >= sizeof(text))
		return EXPR_E_UNSUPPORTED;
	memcpy(text, x->p, len);
	text[len] = 0;
	char *stop;
	errno = 0;
	struct mp v = {.type = MP_UINT, .u = strtoull(text, &stop, 10)};
	if (!whole || errno || v.u > INT64_MAX)
		v = (struct mp){.type = MP_FLOAT, .d = strtod(text, &stop)};
	if (*stop)
		return syntax(x, "malformed number");
	pool_literal(x, &v);
	set_token(x, T_LITERAL, len);
	return 0;
}

/* The character an escape stands for, 0 for those left to Lua. */
static char escape(char c)
{
	switch (c) {
	case 'n':
		return '\n';
	case 't':
		return '\t';
	case 'r':
		return '\r';
	case '\\':
	case '"':
	case '\'':
		return c;
	default:
		return 0;
	}
}

static int scan_string(struct parser *x)
{
	/* decoded behind the place of the head, which is at most 5 bytes, then moved up to it */
	uint8_t *out = x->t->pool + x->t->pool_len + 5;
	uint32_t n = 0;
	const char *q = x->p + 1;
	for (; q < x->end && *q != *x->p; q++) {
		char c = *q;
		if (c == '\n')
			return syntax(x, "unfinished string");
		if (c == '\\') {
			if (++q >= x->end)
				break;
			c = escape(*q);
			if (!c)
				return EXPR_E_UNSUPPORTED;
		}
		out[n++] = (uint8_t)c;
	}
	if (q >= x->end)
		return syntax(x, "unfinished string");
	if (!mp_utf8_valid(out, n))
		return EXPR_E_UNSUPPORTED;
	uint8_t *p = x->t->pool + x->t->pool_len;
	uint8_t *body = mp_write_str_head(p, n);
	memmove(body, out, n);
	x->t->pool_len += (size_t)(body - p) + n;
	expr_val_field(&x->literal, p, (uint32_t)(body - p) + n);
	set_token(x, T_LITERAL, (size_t)(q + 1 - x->p));
	return 0;
}

static int scan_operator(struct parser *x)
{
	static const struct {
		char text[3];
		enum expr_op op;
	} operators[] = {
	        {"==", EXPR_EQ},   {"~=", EXPR_NE},     {"<=", EXPR_LE}, {">=", EXPR_GE},
	        {"//", EXPR_IDIV}, {"..", EXPR_CONCAT}, {"<", EXPR_LT},  {">", EXPR_GT},
	        {"+", EXPR_ADD},   {"*", EXPR_MUL},     {"/", EXPR_DIV}, {"%", EXPR_MOD},
	        {"^", EXPR_POW},
	};
	size_t left = (size_t)(x->end - x->p);
	if (left >= 2 && (memcmp(x->p, "<<", 2) == 0 || memcmp(x->p, ">>", 2) == 0))
		return EXPR_E_UNSUPPORTED;
	if (left >= 3 && memcmp(x->p, "...", 3) == 0)
		return EXPR_E_UNSUPPORTED;
	for (size_t i = 0; i < sizeof(operators) / sizeof(*operators); i++) {
		size_t len = strlen(operators[i].text);
		if (left >= len && memcmp(x->p, operators[i].text, len) == 0) {
			set_binary(x, operators[i].op, len);
			return 0;
		}
	}
	set_token(x, T_OTHER, 1);
	return 0;
}

/* Reads the next token. 0, EXPR_E_UNSUPPORTED, EXPR_E_SYNTAX. */
static int next(struct parser *x)
{
	while (x->p < x->end && isspace((unsigned char)*x->p))
		x->p++;
	x->at = x->p;
	if (x->p >= x->end) {
		x->token = T_END;
		return 0;
	}
	char c = *x->p;
	if (isalpha((unsigned char)c) || c == '_')
		return scan_name(x);
	if (isdigit((unsigned char)c) ||
	    (c == '.' && x->p + 1 < x->end && isdigit((unsigned char)x->p[1])))
		return scan_number(x);
	switch (c) {
	case '"':
	case '\'':
		return scan_string(x);
	case '(':
		set_token(x, T_OPEN, 1);
		return 0;
	case ')':
		set_token(x, T_CLOSE, 1);
		return 0;
	case ',':
		set_token(x, T_COMMA, 1);
		return 0;
	case '#':
		set_token(x, T_LENGTH, 1);
		return 0;
	case '-':
		if (x->p + 1 < x->end && x->p[1] == '-')
			return EXPR_E_UNSUPPORTED;
		set_token(x, T_MINUS, 1);
		return 0;
	default:
		return scan_operator(x);
	}
}

static int add(struct parser *x, const struct expr_node *n, uint16_t *at)
{
	struct expr_tree *t = x->t;
	if (t->n == EXPR_NODES_MAX)
		return syntax(x, "the expression is too long");
	if ((t->n & (t->n - 1)) == 0) {
		size_t cap = t->n ? 2 * (size_t)t->n : 1;
		struct expr_node *p = reallocarray(t->nodes, cap, sizeof(*p));
		if (!p)
			return -ENOMEM;
		t->nodes = p;
	}
	*at = (uint16_t)t->n;
	t->nodes[t->n++] = *n;
	return 0;
}

static int parse_binary(struct parser *x, unsigned limit, uint16_t *at);

static int parse_arguments(struct parser *x, struct expr_node *call)
{
	int r = next(x);
	while (r == 0 && x->token != T_CLOSE) {
		if (call->n == EXPR_ARGS_MAX)
			return syntax(x, "too many arguments");
		r = parse_binary(x, 0, &call->kid[call->n]);
		if (r != 0)
			return r;
		call->n++;
		if (x->token == T_COMMA) {
			r = next(x);
			if (r == 0 && x->token == T_CLOSE)
				return syntax(x, "an argument is missing before \")\"");
		} else if (x->token == T_OTHER) {
			return EXPR_E_UNSUPPORTED;
		} else if (x->token != T_CLOSE) {
			return syntax(x, "expected \",\" or \")\"");
		}
	}
	return r != 0 ? r : next(x);
}

static int check_call(struct parser *x, const struct expr_node *call)
{
	const struct expr_func *f = call->func;
	if (call->n >= f->min && call->n <= f->max)
		return 0;
	snprintf(x->why, x->why_size, "%s() takes %u to %u arguments, not %u", f->name, f->min,
	         f->max, call->n);
	return EXPR_E_SYNTAX;
}

static int parse_name(struct parser *x, uint16_t *at)
{
	struct expr_node n = {.op = EXPR_FIELD, .name = x->at};
	const char *start = x->at;
	n.name_len = (uint32_t)(x->p - x->at);
	n.dotted = memchr(n.name, '.', n.name_len) != NULL;
	int r = next(x);
	if (r == 0 && x->token == T_OPEN) {
		n.op = EXPR_CALL;
		n.func = n.dotted ? NULL : expr_func_find(n.name, n.name_len);
		if (!n.func)
			return EXPR_E_UNSUPPORTED;
		r = parse_arguments(x, &n);
		if (r == 0 && (r = check_call(x, &n)) != 0)
			x->at = start;
	} else if (r == 0 && (x->token == T_OTHER || x->token == T_LITERAL)) {
		return EXPR_E_UNSUPPORTED; /* x[1], x:f(), f"text", f{...} */
	}
	return r != 0 ? r : add(x, &n, at);
}

static int parse_unary(struct parser *x, enum expr_op op, uint16_t *at)
{
	struct expr_node n = {.op = op, .n = 1};
	int r = next(x);
	if (r == 0)
		r = parse_binary(x, POWER_UNARY, &n.kid[0]);
	return r != 0 ? r : add(x, &n, at);
}

static int parse_primary(struct parser *x, uint16_t *at)
{
	struct expr_node literal = {.op = EXPR_LITERAL, .literal = x->literal};
	int r;
	switch (x->token) {
	case T_LITERAL:
		r = add(x, &literal, at);
		return r != 0 ? r : next(x);
	case T_NAME:
		return parse_name(x, at);
	case T_MINUS:
		return parse_unary(x, EXPR_NEG, at);
	case T_NOT:
		return parse_unary(x, EXPR_NOT, at);
	case T_LENGTH:
		return parse_unary(x, EXPR_LENGTH, at);
	case T_OPEN:
		r = next(x);
		if (r == 0)
			r = parse_binary(x, 0, at);
		if (r == 0 && x->token == T_OTHER)
			return EXPR_E_UNSUPPORTED;
		if (r == 0 && x->token != T_CLOSE)
			return syntax(x, "expected \")\"");
		if (r == 0)
			r = next(x);
		return r == 0 && x->token == T_OTHER ? EXPR_E_UNSUPPORTED : r;
	case T_OTHER:
		return EXPR_E_UNSUPPORTED;
	case T_END:
		return syntax(x, "the expression ends too early");
	default:
		return syntax(x, "expected a field, a value or \"(\"");
	}
}

static int parse_operators(struct parser *x, unsigned limit, uint16_t *at)
{
	int r = parse_primary(x, at);
	while (r == 0 && (x->token == T_BINARY || x->token == T_MINUS)) {
		enum expr_op op = x->token == T_MINUS ? EXPR_SUB : x->op;
		if (power[op].left <= limit)
			break;
		struct expr_node n = {.op = op, .n = 2, .kid = {*at}};
		r = next(x);
		if (r == 0)
			r = parse_binary(x, power[op].right, &n.kid[1]);
		if (r == 0)
			r = add(x, &n, at);
	}
	return r;
}

static int parse_binary(struct parser *x, unsigned limit, uint16_t *at)
{
	if (++x->depth > EXPR_DEPTH_MAX)
		return syntax(x, "the expression is nested too deep");
	int r = parse_operators(x, limit, at);
	x->depth--;
	return r;
}

int expr_parse(struct expr_tree *t, const char *text, size_t len, size_t *at, char *why,
               size_t why_size)
{
	struct parser x = {.t = t,
	                   .text = text,
	                   .p = text,
	                   .end = text + len,
	                   .why = why,
	                   .why_size = why_size};
	*t = (struct expr_tree){0};
	/* a literal of n characters needs at most n + 9 bytes, and there are at most len of them */
	t->pool = malloc(10 * len + 16);
	if (!t->pool)
		return -ENOMEM;
	int r = next(&x);
	if (r == 0)
		r = parse_binary(&x, 0, &t->root);
	if (r == 0 && x.token == T_OTHER)
		r = EXPR_E_UNSUPPORTED;
	if (r == 0 && x.token != T_END)
		r = syntax(&x, "expected an operator");
	*at = (size_t)(x.at - text);
	if (r != 0)
		expr_tree_deinit(t);
	return r;
}

void expr_tree_deinit(struct expr_tree *t)
{
	free(t->nodes);
	free(t->pool);
	*t = (struct expr_tree){0};
}
