/*
 * `sluicectl send`: feeds a file or stdin to a daemon's zmq producer.
 */
#pragma once

/* @argv[0] is "send". Returns the exit status: 0 all of it was taken; 1 not all of it (refused,
 * stalled, records that became dead letters or were too large); 2 wrong usage. */
int send_main(int argc, char **argv);
