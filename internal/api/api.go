// Package api is what a daemon and its clients say to each other: the JSON of requests, answers and errors, and the
// protocols that a connection can be upgraded to. docs/api.md is the description for people, docs/openapi.yaml the one for
// programs; tests compare that with the types here and with the daemon's routes.
//
// Sizes are bytes, times are RFC 3339, durations are nanoseconds. What the engine has a type for is that type's JSON.
package api

import (
	"encoding/json"
	"time"

	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/imagepull"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/port"
	"github.com/banger-vm/banger/internal/vm/instance"
)

// Version is the first element of every path. Routes and optional fields may be added to a version.
const Version = "v1"

// The types of bodies.
const (
	JSON   = "application/json"
	Events = "application/x-ndjson" // a JSON value on each line: Event, Output, FileLine or ChangeLine
	Bytes  = "application/octet-stream"
	Tar    = "application/x-tar" // an archive of images
)

// The protocols that a connection can be upgraded to (RFC 9110, section 7.8).
const (
	UpgradeStream = "banger-stream" // a stream to the agent of a VM (docs/guest-protocol.md, section 4)
	UpgradeFrames = "banger-frames" // the frames of a command that has been asked for
	UpgradePull   = "banger-pull"   // the client's standard input in chunks, and a line for each Event the other way
	UpgradeRun    = "banger-run"    // a line for each Event; after a result that is attached, the frames of the VM's command
)

// ErrorTrailer is the trailer of an answer that is a stream of bytes: the JSON of the Error that kept the rest from coming.
const ErrorTrailer = "Banger-Error"

// Event is one line of the progress of what takes long. Exactly one field is set; the last line has Result or Error.
type Event struct {
	Step    *Step           `json:"step,omitempty"`
	Created string          `json:"created,omitempty"` // the name of the VM that was made
	Result  json.RawMessage `json:"result,omitempty"`  // what the answer is without progress
	Error   *Error          `json:"error,omitempty"`
}

// Step is the beginning, the state or the end of one step.
type Step struct {
	Name    string        `json:"name"`
	Detail  string        `json:"detail,omitempty"`
	Done    bool          `json:"done,omitempty"`
	Elapsed time.Duration `json:"elapsed_ns,omitempty"` // of a step that is done

	Amount *imagepull.Amount        `json:"amount,omitempty"` // how much of a step that runs is done
	Layer  *imagepull.LayerProgress `json:"layer,omitempty"`  // how far one layer is, of which alone the line is then
}

// StepOf returns the step as it is sent.
func StepOf(step imagepull.Step) *Step {
	sent := Step(step)
	return &sent
}

// Received returns the step as it was reported.
func (s *Step) Received() imagepull.Step { return imagepull.Step(*s) }

// Output is one line of what a command or a console has printed.
type Output struct {
	Stream string `json:"stream,omitempty"` // "stdout" or "stderr"
	Text   string `json:"text,omitempty"`   // a piece, where it is valid UTF-8
	Bytes  []byte `json:"bytes,omitempty"`  // a piece otherwise

	ExitCode *int   `json:"exit_code,omitempty"` // of a command: the last line
	Error    *Error `json:"error,omitempty"`     // what kept the rest from coming: the last line
}

// FileLine is one line of the files of an image: a file, or what kept the rest from coming.
type FileLine struct {
	File  *engine.File `json:"file,omitempty"`
	Error *Error       `json:"error,omitempty"`
}

// ChangeLine is one line of how two images differ: a path, or what kept the rest from coming.
type ChangeLine struct {
	Change *engine.Change `json:"change,omitempty"`
	Error  *Error         `json:"error,omitempty"`
}

// The requests' bodies. Those of POST /v1/vms, /v1/run, /v1/images/prune and /v1/vms/{vm}/exec are engine.VMOptions,
// engine.BeginOptions, engine.PruneOptions and exec.Command.
type (
	// Pull asks for an image. The path of a layout or an archive is absolute.
	Pull struct {
		Reference string `json:"reference"`
		engine.PullOptions
	}
	// Export asks for an image's disk in a file of the daemon's host.
	Export struct {
		Path string `json:"path"` // absolute
	}
	// ImportKernel asks for a kernel. Paths are absolute.
	ImportKernel struct {
		Name string `json:"name,omitempty"` // "" is the kernel's version
		engine.KernelSource
	}
	// Stop asks for the end of a VM.
	Stop struct {
		Limit time.Duration `json:"limit_ns"` // how long the VM may take before it is killed
	}
	// Signal asks for a signal to a VM's command.
	Signal struct {
		Signal string `json:"signal"` // "HUP", "SIGHUP" or "1"
	}
	// Publish asks for ports.
	Publish struct {
		Ports []string `json:"ports"` // [IP:][HOST:]GUEST[/udp]
	}
)

// The answers. Error says what went wrong beside what is there.
type (
	// Versions says which versions a daemon has.
	Versions struct {
		API    string `json:"api"`
		Banger string `json:"banger"`
		Agent  string `json:"agent"` // of the guest
	}
	// Images are all images, the newest first.
	Images struct {
		Images []engine.NamedImage `json:"images"`
		Error  *Error              `json:"error,omitempty"`
	}
	// Kernels are all kernels by name.
	Kernels struct {
		Kernels []*kernel.Kernel `json:"kernels"`
		Error   *Error           `json:"error,omitempty"`
	}
	// VMs are all VMs by name.
	VMs struct {
		VMs   []engine.VM `json:"vms"`
		Error *Error      `json:"error,omitempty"`
	}
	// Stats are the figures of VMs that run.
	Stats struct {
		VMs   []engine.Stats `json:"vms"`
		Error *Error         `json:"error,omitempty"`
	}
	// Removed is what a removal took away: a name, or an image's id.
	Removed struct {
		Removed string `json:"removed"`
	}
	// Pruned are the names of the VMs that were removed.
	Pruned struct {
		Removed []string `json:"removed"`
		Error   *Error   `json:"error,omitempty"`
	}
	// Usage is what takes how much space.
	Usage struct {
		engine.DiskUsage
		Error *Error `json:"error,omitempty"`
	}
	// PrunedImages is what was removed, or would be, and how much space that gives back.
	PrunedImages struct {
		engine.PrunedImages
		Error *Error `json:"error,omitempty"`
	}
	// Ports are those that VMs publish.
	Ports struct {
		Ports []engine.VMPort `json:"ports"`
	}
	// Changed are the ports of a VM that were published or closed.
	Changed struct {
		Ports []port.Published `json:"ports"`
	}
	// Checks are what a daemon needs of its host.
	Checks struct {
		Checks []engine.Check `json:"checks"`
	}
	// Ended is how a VM ended.
	Ended struct {
		ExitCode int `json:"exit_code"`
	}
	// Process is a detached command.
	Process struct {
		PID int `json:"pid"` // in the VM
	}
	// Begun is a VM that has booted.
	Begun struct {
		VM       instance.Config `json:"vm"`
		Attached bool            `json:"attached"` // the frames of its command follow
	}
)
