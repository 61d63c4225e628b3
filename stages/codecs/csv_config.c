/*
 * The options of the csv codec, for reading and writing alike.
 */
#include "stages/codecs/csv.h"

const struct option csv_options[] = {
        {.name = "delimiter",
         .type = OPTION_STRING,
         .offset = offsetof(struct csv_config, delimiter),
         .def = ",",
         .help = "one character between fields; tab is one"},
        {.name = "quote",
         .type = OPTION_STRING,
         .offset = offsetof(struct csv_config, quote),
         .def = "\"",
         .help = "the character around fields that need it"},
        {.name = "header",
         .type = OPTION_BOOL,
         .offset = offsetof(struct csv_config, header),
         .def = "true",
         .help = "the first line holds the names (read), or shall (write)"},
        {.name = "columns",
         .type = OPTION_STRINGS,
         .offset = offsetof(struct csv_config, columns),
         .help = "names of the columns; writing: the fields to write, in this order"},
        OPTION_END,
};

const struct csv_config *csv_config(const struct codec *c)
{
	static const struct csv_config def = {.delimiter = ",", .quote = "\"", .header = true};
	return c->config ? c->config : &def;
}

uint8_t csv_char(const char *s)
{
	if (strcmp(s, "tab") == 0 || strcmp(s, "\\t") == 0)
		return '\t';
	bool one = s[0] && !s[1] && !(s[0] & 0x80) && s[0] != '\n' && s[0] != '\r';
	return one ? (uint8_t)s[0] : 0;
}

void csv_check(const void *config, const struct node *node, struct complaints *c)
{
	const struct csv_config *cf = config;
	const struct strings *cols = &cf->columns;
	if (!csv_char(cf->delimiter))
		complain(c, node, "delimiter: expected one ASCII character or tab");
	if (!csv_char(cf->quote) || csv_char(cf->quote) == csv_char(cf->delimiter))
		complain(c, node, "quote: expected one ASCII character other than the delimiter");
	if (cols->n > CSV_COLUMNS_MAX) {
		complain(c, node, "columns: more than %d", CSV_COLUMNS_MAX);
		return;
	}
	for (size_t i = 0; i < cols->n; i++)
		for (size_t j = 0; j < i; j++)
			if (strcmp(cols->v[i], cols->v[j]) == 0)
				complain(c, node, "columns: \"%s\" stands there twice", cols->v[i]);
}
