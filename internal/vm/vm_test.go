package vm

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fault"
)

func validSpec() Spec {
	return Spec{
		Name: "web-1", Dir: "/vms/web-1", RuntimeDir: "/run/banger/1", Vmlinuz: "/k/vmlinuz", Initramfs: "/k/initramfs",
		RootImage: "/i/rootfs.ext4", ModulesImage: "/k/modules.ext4", Init: "/sbin/init", SpawnAgent: true, CPUs: 1,
		MemoryMiB: MinMemoryMiB, DiskSize: 20 << 30, Hostname: "web-1.example", Network: true, BootTimeout: time.Second,
	}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Spec)
		want   string // part of the error; "" is none
	}{
		{"all given", func(*Spec) {}, ""},
		{"the least", func(s *Spec) { s.Hostname, s.ModulesImage, s.Network, s.DiskSize = "", "", false, 0 }, ""},
		{"asks for KVM", func(s *Spec) { s.Accelerator = KVM }, ""},
		{"no name", func(s *Spec) { s.Name = "" }, "the name"},
		{"name with a comma", func(s *Spec) { s.Name = "a,process=b" }, "the name"},
		{"host name with another argument", func(s *Spec) { s.Hostname = "a init=/bin/sh" }, "host name"},
		{"host name with a newline", func(s *Spec) { s.Hostname = "a\nb" }, "host name"},
		{"host name that begins with a dash", func(s *Spec) { s.Hostname = "-a" }, "host name"},
		{"longest host name", func(s *Spec) { s.Hostname = strings.Repeat("a", 64) }, ""},
		{"host name too long", func(s *Spec) { s.Hostname = strings.Repeat("a", 65) }, "host name"},
		{"host name that is not ASCII", func(s *Spec) { s.Hostname = "müller" }, "host name"},
		{"unknown accelerator", func(s *Spec) { s.Accelerator = "hax" }, `"hax"`},
		{"relative directory", func(s *Spec) { s.Dir = "vms/a" }, "directory"},
		{"no kernel", func(s *Spec) { s.Vmlinuz = "" }, "kernel"},
		{"no root image", func(s *Spec) { s.RootImage = "" }, "root image"},
		{"relative module image", func(s *Spec) { s.ModulesImage = "m" }, "module image"},
		{"init with another argument", func(s *Spec) { s.Init = "/bin/sh rw" }, "kernel command line"},
		{"init with a quote", func(s *Spec) { s.Init = `/bin/"sh` }, "kernel command line"},
		{"no CPU", func(s *Spec) { s.CPUs = 0 }, "CPUs"},
		{"little memory", func(s *Spec) { s.MemoryMiB = MinMemoryMiB - 1 }, "memory"},
		{"disk of less than nothing", func(s *Spec) { s.DiskSize = -4096 }, "disk"},
		{"disk with a part of a block", func(s *Spec) { s.DiskSize = 1<<30 + 512 }, "disk"},
		{"no time limit", func(s *Spec) { s.BootTimeout = 0 }, "time limit"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spec := validSpec()
			test.change(&spec)
			err := spec.Validate()
			if test.want == "" {
				if err != nil {
					t.Fatalf("Validate refused a good Spec: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("Validate = %v, want an error with %q", err, test.want)
			}
			if kind := fault.KindOf(err); kind != fault.Usage {
				t.Errorf("kind of the error = %d, want %d (Usage)", kind, fault.Usage)
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	magic := [16]byte{0: 0xab, 15: 0x01}
	full := validSpec().CommandLine(magic, 2_600_000)
	for _, want := range []string{
		"console=ttyS0", "panic=-1", "reboot=t", "banger.init=/sbin/init", "banger.hostname=web-1.example",
		"banger.magic=ab000000000000000000000000000001", "banger.net=10.0.2.15/24,10.0.2.2,10.0.2.3",
		"tsc_early_khz=2600000", "banger.grow", "banger.modules", "banger.spawn",
	} {
		if !slices.Contains(full, want) {
			t.Errorf("the command line %q lacks %q", full, want)
		}
	}
	spec := validSpec()
	spec.Hostname, spec.Network, spec.DiskSize, spec.SpawnAgent, spec.ModulesImage = "", false, 0, false, ""
	for _, word := range spec.CommandLine(magic, 0) {
		for _, unwanted := range []string{"banger.hostname", "banger.net", "banger.grow", "banger.modules", "banger.spawn", "tsc"} {
			if strings.HasPrefix(word, unwanted) {
				t.Errorf("the command line has %q, which was not asked for", word)
			}
		}
	}
}

// TestCommandLineFits: the kernel cuts a longer line off silently (COMMAND_LINE_SIZE of arch/x86 is 2048 bytes).
func TestCommandLineFits(t *testing.T) {
	spec := validSpec()
	spec.Hostname = strings.Repeat("a", maxHostname)
	spec.Init = "/" + strings.Repeat("i", 255)
	if line := strings.Join(spec.CommandLine([16]byte{}, maxInt32), " "); len(line) >= 2048 {
		t.Errorf("the command line has %d bytes, want fewer than 2048: %s", len(line), line)
	}
}

const maxInt32 = 1<<31 - 1
