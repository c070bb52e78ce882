#include "textflag.h"

// func orderedTSC() uint64
// LFENCE; RDTSC: RDTSC alone may run ahead of earlier instructions (Intel SDM, volume 2, RDTSC).
TEXT ·orderedTSC(SB), NOSPLIT, $0-8
	LFENCE
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, ret+0(FP)
	RET
