package qemu

func rdtsc() (ticks uint64, ok bool) { return orderedTSC(), true }

// orderedTSC reads the time stamp counter after all that comes before it in the program (tsc_amd64.s).
func orderedTSC() uint64
