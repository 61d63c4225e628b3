/*
 * CRC32C (Castagnoli polynomial 0x1EDC6F41, reflected; RFC 3720, appendix B.4), by the CPU's
 * instruction where there is one, by a table elsewhere.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* The CRC of @len bytes; @crc is that of what stands before them, 0 at the start. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);
