/*
 * JSON out (RFC 8259): see json_out.h.
 *
 * The one hard idea is that no input is trusted: a worker's reason for its trouble may quote a
 * peer's bytes, and those may be anything. Bytes that are no UTF-8 become U+FFFD, one for each;
 * control characters are escaped, DEL and U+0080..U+009F too, since answers are also looked at in
 * terminals.
 *
 * Limit: keys are the program's own literals or names that the configuration's check let through;
 * they are escaped all the same.
 */
#include "daemon/json_out.h"

#include <math.h>

#include "ipc/mp.h"

static void add(struct json *j, const void *p, size_t len)
{
	if (buf_add(j->out, p, len) < 0)
		j->error = -ENOMEM;
}

static void add_str(struct json *j, const char *s)
{
	add(j, s, strlen(s));
}

static void add_escaped(struct json *j, const uint8_t *p, size_t n)
{
	static const char *const shorts[0x20] = {['\n'] = "\\n", ['\r'] = "\\r", ['\t'] = "\\t"};
	char code[8];
	if (p[0] < 0x20 && shorts[p[0]]) {
		add_str(j, shorts[p[0]]);
	} else if (p[0] == '"' || p[0] == '\\') {
		add(j, "\\", 1);
		add(j, p, 1);
	} else if (p[0] < 0x20 || p[0] == 0x7f || (n == 2 && p[0] == 0xc2 && p[1] < 0xa0)) {
		snprintf(code, sizeof(code), "\\u%04x", n == 2 ? p[1] : p[0]);
		add_str(j, code);
	} else {
		add(j, p, n);
	}
}

static void add_string(struct json *j, const char *s, size_t len)
{
	const uint8_t *p = (const uint8_t *)s, *end = p + len;
	add(j, "\"", 1);
	while (p < end) {
		size_t n = mp_utf8_char(p, (size_t)(end - p));
		if (n)
			add_escaped(j, p, n);
		else
			add_str(j, "\xef\xbf\xbd");
		p += n ? n : 1;
	}
	add(j, "\"", 1);
}

static void begin(struct json *j, const char *key)
{
	if (j->comma)
		add(j, ",", 1);
	j->comma = true;
	if (key) {
		add_string(j, key, strlen(key));
		add(j, ":", 1);
	}
}

void json_open(struct json *j, const char *key, char bracket)
{
	begin(j, key);
	add(j, &bracket, 1);
	j->comma = false;
}

void json_close(struct json *j, char bracket)
{
	add(j, &bracket, 1);
	j->comma = true;
}

void json_text_max(struct json *j, const char *key, const char *value, size_t max)
{
	begin(j, key);
	add_string(j, value, strnlen(value, max));
}

void json_text(struct json *j, const char *key, const char *value)
{
	begin(j, key);
	if (value)
		add_string(j, value, strlen(value));
	else
		add_str(j, "null");
}

void json_uint(struct json *j, const char *key, uint64_t value)
{
	char s[24];
	begin(j, key);
	snprintf(s, sizeof(s), "%llu", (unsigned long long)value);
	add_str(j, s);
}

void json_int(struct json *j, const char *key, int64_t value)
{
	char s[24];
	begin(j, key);
	snprintf(s, sizeof(s), "%lld", (long long)value);
	add_str(j, s);
}

void json_num(struct json *j, const char *key, double value)
{
	char s[40];
	begin(j, key);
	snprintf(s, sizeof(s), "%.10g", value);
	add_str(j, isfinite(value) ? s : "null");
}

void json_bool(struct json *j, const char *key, bool value)
{
	begin(j, key);
	add_str(j, value ? "true" : "false");
}

void json_raw(struct json *j, const char *key, const void *json, size_t len)
{
	begin(j, key);
	add(j, json, len);
}
