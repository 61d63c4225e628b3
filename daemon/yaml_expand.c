/*
 * ${NAME}, ${NAME:-default} and $$ inside scalars.
 *
 * What a variable holds is put in as it is and never looked at again: no second expansion, no YAML.
 * Any other $ stays, so that regular expressions need no doubling.
 */
#include "daemon/yaml.h"

#include "ipc/err.h"

static size_t name_length(const char *s, const char *end)
{
	size_t n = 0;
	while (s + n < end && (s[n] == '_' || (s[n] >= 'A' && s[n] <= 'Z') ||
	                       (s[n] >= 'a' && s[n] <= 'z') || (n && s[n] >= '0' && s[n] <= '9')))
		n++;
	return n;
}

/* Appends what the variable at @s (behind "${") stands for. Returns the byte behind "}", or NULL
 * after a complaint about @n. An empty variable takes the default, like in a shell. */
static const char *expand_one(const struct node *n, const char *s, struct buf *out,
                              struct complaints *c)
{
	const char *end = n->text + n->len;
	size_t len = name_length(s, end);
	const char *close = memchr(s, '}', (size_t)(end - s));
	char name[256];
	if (!close || len == 0 || len >= sizeof(name) ||
	    (s + len != close && strncmp(s + len, ":-", 2) != 0)) {
		complain(c, n, "expected ${NAME} or ${NAME:-default}; a plain $ is written $$");
		return NULL;
	}
	memcpy(name, s, len);
	name[len] = '\0';
	const char *value = getenv(name);
	int e = 0;
	if (s + len != close && (!value || !*value))
		e = buf_add(out, s + len + 2, (size_t)(close - (s + len + 2)));
	else if (value)
		e = buf_add_str(out, value);
	else {
		complain(c, n,
		         "environment variable %s is not set, and no default is given "
		         "(${%s:-default})",
		         name, name);
		return NULL;
	}
	if (e < 0 || out->len > YAML_EXPANDED_MAX) {
		complain(c, n, "too long with its variables filled in");
		return NULL;
	}
	return close + 1;
}

int yaml_expand(const struct node *n, struct buf *out, struct complaints *c)
{
	const char *s = n->text, *end = n->text + n->len;
	int found = 0;
	while (s < end) {
		const char *dollar = memchr(s, '$', (size_t)(end - s));
		if (!dollar || dollar + 1 == end)
			dollar = end;
		if (buf_add(out, s, (size_t)(dollar - s)) < 0)
			return -ENOMEM;
		if (dollar == end)
			break;
		s = dollar + 2;
		if (dollar[1] == '{') {
			found = 1;
			s = expand_one(n, s, out, c);
			if (!s)
				return -EINVAL;
		} else {
			if (buf_add_byte(out, '$') < 0)
				return -ENOMEM;
			s -= dollar[1] != '$';
		}
	}
	return found;
}
