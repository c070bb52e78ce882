// Package machine is what the host does with a guest as a machine: it sets its clock, gives it randomness, has it write
// its file systems to the disk, and asks how it is doing. The host's half are SetClock, Seed, Sync and ReadStats, the
// agent's half is Guest. docs/guest-protocol.md is the specification.
package machine

import "time"

// The requests.
const (
	doClock = "clock"
	doSeed  = "seed"
	doSync  = "sync"
	doStats = "stats"
)

// ClockTolerance is how far the guest's clock may be from the host's before it is stepped. A smaller difference is left
// to the guest, which may have a time service of its own.
const ClockTolerance = 200 * time.Millisecond

// The size of a seed in bytes: what the kernel's generator is made of, and more than any use for it.
const (
	minSeed = 32
	maxSeed = 512
)

// step is the argument of clock: what to add to the guest's clock. Zero only asks for the time.
type step struct {
	Nanoseconds int64 `json:"step_ns,omitempty"`
}

// reading is the reply to clock: the guest's time after the step, since the Unix epoch.
type reading struct {
	Nanoseconds int64 `json:"unix_ns"`
}

// seed is the argument of seed.
type seed struct {
	Bytes []byte `json:"bytes"` // base64 in JSON
}

// Stats says how a guest is doing. Sizes are in bytes; times and counts run since the guest's boot.
type Stats struct {
	Uptime time.Duration `json:"uptime_ns"`

	CPUs     int           `json:"cpus"`         // online
	CPUBusy  time.Duration `json:"cpu_busy_ns"`  // of all CPUs together; what the host took (steal) is not busy
	CPUTotal time.Duration `json:"cpu_total_ns"` // of all CPUs together, idle or not
	Load     [3]float64    `json:"load"`         // averages over 1, 5 and 15 minutes (proc(5), loadavg)

	Processes int `json:"processes"` // with the kernel's threads

	MemoryTotal     uint64 `json:"memory_total"`     // what the kernel has for itself and programs
	MemoryAvailable uint64 `json:"memory_available"` // MemAvailable of proc(5): what programs could still get
	MemoryUsed      uint64 `json:"memory_used"`      // the rest
	AgentMemory     uint64 `json:"agent_memory"`     // resident memory of the agent

	RootSize uint64 `json:"root_size"` // of the root file system
	RootFree uint64 `json:"root_free"` // for root

	DiskRead    uint64 `json:"disk_read"`    // of all virtio disks
	DiskWritten uint64 `json:"disk_written"` // of all virtio disks
	NetReceived uint64 `json:"net_received"` // by the network card; 0 without one
	NetSent     uint64 `json:"net_sent"`     // by the network card
}
