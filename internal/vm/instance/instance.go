// Package instance keeps the VMs of a home: for each a directory with its configuration, its disk, its logs and what
// became of it. Whether a VM runs is never read from a file: its monitor holds a lock for as long as it lives.
//
// docs/vm.md describes the files.
package instance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/jsonfile"
	"github.com/banger-vm/banger/internal/lock"
)

// Schema is the version of the JSON files of an instance.
const Schema = 1

// The files of a VM's directory.
const (
	ConfigFile  = "vm.json"      // Config
	EndFile     = "state.json"   // State
	MonitorFile = "monitor.json" // Monitor
	LockFile    = "monitor.lock" // held by the monitor for as long as it lives
	StartLock   = "start.lock"   // held by whoever makes, starts or removes the VM
	MonitorLog  = "monitor.log"  // what the monitor prints
	OutputLog   = "output.log"   // what the command printed (package output of the monitor)
	ConsoleLog  = "console.log"  // the serial port
	Initramfs   = "initramfs.cpio"
)

// Config says what a VM is made of. It changes only by what the user asks for.
type Config struct {
	Schema  int       `json:"schema"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`

	Image   string `json:"image"`    // as the user named it
	ImageID string `json:"image_id"` // of the store: the disk behind the VM's own
	Kernel  string `json:"kernel"`   // of the kernel store

	CPUs        int           `json:"cpus"`
	MemoryMiB   int           `json:"memory_mib"`
	DiskSize    int64         `json:"disk_size,omitempty"` // bytes; 0 is the image's size
	Hostname    string        `json:"hostname"`
	Network     string        `json:"network"`               // "user" or "none"
	Init        string        `json:"init"`                  // program of the root that becomes process 1
	Systemd     bool          `json:"systemd"`               // that program is systemd, which takes a while to start everything
	SpawnAgent  bool          `json:"spawn_agent,omitempty"` // that program does not start the agent
	BootTimeout time.Duration `json:"boot_timeout"`
	Ports       []string      `json:"ports,omitempty"` // published, as package port writes them

	Workload *Workload `json:"workload,omitempty"` // nil: the VM is a machine, and lives until it is stopped
	User     string    `json:"user,omitempty"`     // of commands; "" is the image's
	Dir      string    `json:"workdir,omitempty"`  // of commands; "" is the image's WorkingDir
	Env      []string  `json:"env,omitempty"`      // of commands, over the image's
	Remove   bool      `json:"remove,omitempty"`   // with the end of the VM
}

// Workload is the command whose end is the end of the VM.
type Workload struct {
	Argv       []string `json:"argv"`
	Login      bool     `json:"login,omitempty"` // the user's login shell
	TTY        bool     `json:"tty,omitempty"`
	Stdin      bool     `json:"stdin,omitempty"`
	StopSignal int      `json:"stop_signal"`
}

// Reason says how a run of a VM came to its end. The zero Reason is a run that has not ended, or whose monitor was killed.
type Reason string

// The reasons.
const (
	Exited   Reason = "exited"   // its command ended
	Stopped  Reason = "stopped"  // somebody asked for it
	Killed   Reason = "killed"   // by banger: at somebody's request, or since it did not stop in time
	PowerOff Reason = "poweroff" // by the guest
	Crashed  Reason = "crashed"  // its kernel panicked or the VMM ended with an error
	Failed   Reason = "failed"   // it did not come up
)

// State is what became of the last run of a VM. The monitor writes it at the start and at the end of a run.
type State struct {
	Schema   int        `json:"schema"`
	Started  time.Time  `json:"started"`
	Ended    *time.Time `json:"ended,omitempty"`
	Reason   Reason     `json:"reason,omitempty"`
	ExitCode int        `json:"exit_code"`
	Error    string     `json:"error,omitempty"` // what went wrong, for people
}

// Monitor says where the monitor of a running VM is to be found.
type Monitor struct {
	Schema  int    `json:"schema"`
	PID     int    `json:"pid"`
	VMM     int    `json:"vmm,omitempty"` // process id of the VMM
	Control string `json:"control"`       // path of the socket
}

// Instance is a VM of the store.
type Instance struct {
	Config
	Dir string // its directory
}

// Path returns the path of one of the VM's files.
func (i *Instance) Path(file string) string { return filepath.Join(i.Dir, file) }

// State returns what became of the last run, and false if there was none.
func (i *Instance) State() (State, bool) {
	var s State
	err := jsonfile.Read(i.Path(EndFile), &s)
	return s, err == nil
}

// SetState writes down what becomes of the run.
func (i *Instance) SetState(s State) error {
	s.Schema = Schema
	return jsonfile.WriteVolatile(i.Path(EndFile), s)
}

// SetConfig replaces the configuration.
func (i *Instance) SetConfig(c Config) error {
	c.Schema = Schema
	if err := jsonfile.Write(i.Path(ConfigFile), c); err != nil {
		return err
	}
	i.Config = c
	return nil
}

// Monitor returns where the monitor is.
func (i *Instance) Monitor() (Monitor, error) {
	var m Monitor
	err := jsonfile.Read(i.Path(MonitorFile), &m)
	return m, err
}

// SetMonitor says where the monitor is.
func (i *Instance) SetMonitor(m Monitor) error {
	m.Schema = Schema
	return jsonfile.WriteVolatile(i.Path(MonitorFile), m)
}

// Lock waits for the monitor's lock. Under it the VM does not run. A VM that was removed is fs.ErrNotExist.
func (i *Instance) Lock(ctx context.Context) (*lock.Lock, error) { return i.acquire(ctx, LockFile) }

// LockStart waits for the lock of whoever makes, starts or removes the VM. A VM that was removed is fs.ErrNotExist.
func (i *Instance) LockStart(ctx context.Context) (*lock.Lock, error) {
	return i.acquire(ctx, StartLock)
}

func (i *Instance) acquire(ctx context.Context, file string) (*lock.Lock, error) {
	held, err := lock.AcquireIn(ctx, i.Dir, file)
	if err != nil {
		return nil, fmt.Errorf("locking the VM %q: %w", i.Name, err)
	}
	return held, nil
}

// Runs reports whether the VM has a living monitor.
func (i *Instance) Runs() bool { return lock.Held(i.Path(LockFile)) }

// BeingStarted reports whether somebody makes, starts or removes the VM.
func (i *Instance) BeingStarted() bool { return lock.Held(i.Path(StartLock)) }

// Open returns the VM in dir.
func Open(dir string) (*Instance, error) { return NewStore(filepath.Dir(dir)).Get(filepath.Base(dir)) }

// gonePrefix begins the names of directories that are being removed. No VM is called so.
const gonePrefix = ".gone-"

// Discard removes the VM with all its files. The caller holds its lock. The VM is gone by one rename: a full disk is not in
// its way, and neither is a Sweep. fs.ErrNotExist means that it was gone before.
func (i *Instance) Discard() error {
	grave := filepath.Join(filepath.Dir(i.Dir), gonePrefix+rand.Text())
	err := os.Rename(i.Dir, grave)
	if err == nil {
		err = os.RemoveAll(grave)
	}
	if err != nil {
		return fmt.Errorf("removing the VM %q: %w", i.Name, err)
	}
	return nil
}

// Unread returns the VM of that name without its configuration, to remove one whose configuration cannot be read.
func (s *Store) Unread(name string) *Instance {
	return &Instance{Config: Config{Name: name}, Dir: s.Path(name)}
}

// Sweep removes what was left when a removal was killed.
func (s *Store) Sweep() error {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), gonePrefix) {
			err = errors.Join(err, os.RemoveAll(s.Path(entry.Name())))
		}
	}
	return err
}

// Store has the VMs of a home.
type Store struct {
	dir string
}

// NewStore returns the store in dir, whose parents exist.
func NewStore(dir string) *Store { return &Store{dir: dir} }

// Path returns the directory of a VM of that name, which may not exist.
func (s *Store) Path(name string) string { return filepath.Join(s.dir, name) }

// Publish makes a directory that has been prepared on the same file system, with all but the configuration, a VM. A name
// that is taken is a fault.Conflict.
func (s *Store) Publish(prepared string, c Config) (*Instance, error) {
	i := &Instance{Dir: prepared}
	if err := i.SetConfig(c); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the VM %q: %w", c.Name, err)
	}
	i.Dir = s.Path(c.Name)
	err := os.Rename(prepared, i.Dir) // a directory in use is never empty, and so never replaced
	if errors.Is(err, fs.ErrExist) {
		return nil, NameTaken(c.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("making the VM %q: %w", c.Name, err)
	}
	return i, nil
}

// NameTaken is the error for a name that another VM has.
func NameTaken(name string) error {
	err := fmt.Errorf("making the VM %q: there is one of that name", name)
	return fault.New(fault.Conflict, err, "choose another --name, or remove it: banger vm rm "+name)
}

// Get returns the VM of that name. One that does not exist wraps fs.ErrNotExist, and one whose configuration cannot be
// read is a fault.Corrupt.
func (s *Store) Get(name string) (*Instance, error) {
	i := &Instance{Dir: s.Path(name)}
	err := jsonfile.Read(i.Path(ConfigFile), &i.Config)
	if _, missing := os.Stat(i.Dir); err != nil && missing == nil {
		i.Config = Config{}
		err = jsonfile.Read(i.Path(ConfigFile), &i.Config) // it may have been made just now
		if err != nil {
			// Without %w where it is missing: the name is taken all the same.
			err = fault.New(fault.Corrupt, errors.New(err.Error()), "remove the VM: banger vm rm --force "+name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the VM %q: %w", name, err)
	}
	if i.Schema != Schema {
		err := fmt.Errorf("reading the VM %q: schema %d is not known to this version of banger", name, i.Schema)
		return nil, fault.New(fault.Unsupported, err, "use a newer banger, or remove the VM")
	}
	return i, nil
}

// Names returns the names of all VMs, sorted.
func (s *Store) Names() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the VMs: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() && !strings.HasPrefix(entry.Name(), ".") {
			names = append(names, entry.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// List returns all VMs by name. One that cannot be read is left out and reported in the error, beside those that can.
func (s *Store) List() ([]*Instance, error) {
	names, err := s.Names()
	if err != nil {
		return nil, err
	}
	var list []*Instance
	var broken []error
	for _, name := range names {
		i, err := s.Get(name)
		switch {
		case err == nil:
			list = append(list, i)
		case !errors.Is(err, fs.ErrNotExist): // removed meanwhile
			broken = append(broken, err)
		}
	}
	return list, errors.Join(broken...)
}
