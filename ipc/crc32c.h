/*
 * CRC32C (Castagnoli polynomial 0x1EDC6F41, reflected; RFC 3720, appendix B.4), by ISA-L, which
 * folds with whatever the processor has: 40 GB/s and more, where the CRC instruction in a plain
 * loop makes 7. Every chunk of a file arena is summed once, and with a log twice more.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <isa-l/crc.h>

/* ISA-L's widest routine leaves the upper halves of the vector registers in use, and all SSE code
 * after it would pay for that: decoding messages took twice as long. */
static inline void crc32c_leave_vectors(void)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx"))
		__asm__ volatile("vzeroupper" ::
		                         : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
		                           "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
		                           "xmm13", "xmm14", "xmm15");
#endif
}

/* The CRC of @len bytes; @crc is that of what stands before them, 0 at the start. */
static inline uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
	const size_t most = 1 << 30; /* it takes an int */
	unsigned char *p = (unsigned char *)data;
	for (crc = ~crc; len > most; p += most, len -= most)
		crc = crc32_iscsi(p, (int)most, crc);
	crc = ~crc32_iscsi(p, (int)len, crc);
	crc32c_leave_vectors();
	return crc;
}
