/*
 * sluiced: options, and which of the daemon's few ways to run was asked for.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/offline.h"
#include "ipc/log.h"

enum {
	OPT_CHECK = 256,
	OPT_TRY,
	OPT_UNTIL_DONE,
	OPT_VERSION,
	OPT_ARENA_CHECK,
	OPT_ARENA_EXPORT,
	OPT_ARENA_REPAIR,
	OPT_YES,
	OPT_LOG_LEVEL,
};

static const char usage[] =
        "usage: sluiced [-c FILE] [OPTION]\n"
        "\n"
        "Runs the pipelines of the configuration, in the foreground, logging to stderr or the "
        "journal.\n"
        "\n"
        "  -c, --config FILE      configuration (default /etc/sluice/sluice.yaml, or "
        "./sluice.yaml\n"
        "                         for an unprivileged user)\n"
        "      --check            only check the configuration: exit status 0 or 2\n"
        "      --try STAGE        run one transformer's steps on JSON records from stdin, print "
        "what comes out\n"
        "      --until-done       end with status 0 when all producers have ended and everything "
        "is delivered\n"
        "      --arena-check      look at a stopped arena: what is in it, whether it is sound\n"
        "      --arena-export FILE  write the records in flight of a stopped arena to FILE as "
        "NDJSON\n"
        "      --arena-repair     bring a stopped arena in order; shows the plan, does it with "
        "--yes\n"
        "      --yes              do what --arena-repair planned\n"
        "      --log-level LEVEL  error, warning, notice, info (default) or debug\n"
        "      --version          print the version\n"
        "  -h, --help             print this\n"
        "\n"
        "sluicectl(1) watches and steers a running daemon.\n";

static const struct option_entry {
	const char *name;
	enum log_level level;
} levels[] = {{"error", LOG_LEVEL_ERROR},
              {"warning", LOG_LEVEL_WARNING},
              {"notice", LOG_LEVEL_NOTICE},
              {"info", LOG_LEVEL_INFO},
              {"debug", LOG_LEVEL_DEBUG}};

static bool set_level(const char *name)
{
	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++)
		if (strcmp(levels[i].name, name) == 0) {
			log_set_level(levels[i].level);
			return true;
		}
	return false;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
	        {"config", required_argument, NULL, 'c'},
	        {"check", no_argument, NULL, OPT_CHECK},
	        {"try", required_argument, NULL, OPT_TRY},
	        {"until-done", no_argument, NULL, OPT_UNTIL_DONE},
	        {"arena-check", no_argument, NULL, OPT_ARENA_CHECK},
	        {"arena-export", required_argument, NULL, OPT_ARENA_EXPORT},
	        {"arena-repair", no_argument, NULL, OPT_ARENA_REPAIR},
	        {"yes", no_argument, NULL, OPT_YES},
	        {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
	        {"version", no_argument, NULL, OPT_VERSION},
	        {"help", no_argument, NULL, 'h'},
	        {NULL, 0, NULL, 0},
	};
	const char *path = NULL, *argument = NULL;
	int what = 0, o;
	bool until_done = false, yes = false;
	while ((o = getopt_long(argc, argv, "c:h", options, NULL)) != -1) {
		switch (o) {
		case 'c':
			path = optarg;
			break;
		case OPT_UNTIL_DONE:
			until_done = true;
			break;
		case OPT_YES:
			yes = true;
			break;
		case OPT_LOG_LEVEL:
			if (!set_level(optarg)) {
				fprintf(stderr, "sluiced: --log-level is error, warning, notice, "
				                "info or debug\n");
				return 2;
			}
			break;
		case OPT_VERSION:
			puts("sluiced " SLUICE_VERSION);
			return 0;
		case 'h':
			fputs(usage, stdout);
			return 0;
		case '?':
			fputs("sluiced: see --help\n", stderr);
			return 2;
		default:
			what = o;
			argument = optarg;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "sluiced: %s: not an option; see --help\n", argv[optind]);
		return 2;
	}
	struct config *cfg = offline_load(path);
	if (!cfg)
		return 2;
	switch (what) {
	case OPT_CHECK:
		return offline_check(cfg);
	case OPT_TRY:
		return offline_try(cfg, argument);
	case OPT_ARENA_CHECK:
		return offline_arena_check(cfg);
	case OPT_ARENA_EXPORT:
		return offline_arena_export(cfg, argument);
	case OPT_ARENA_REPAIR:
		return offline_arena_repair(cfg, yes);
	default:
		return master_run(cfg, until_done);
	}
}
