package qemu

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/system"
	"github.com/banger-vm/banger/internal/vm"
)

// TestBootFailures breaks one part of a machine that boots, and asks whether the error names it.
func TestBootFailures(t *testing.T) {
	k := theKit(t)
	tests := []struct {
		name      string
		breakSpec func(*testing.T, *vm.Spec)
		limit     time.Duration // for the failure to be noticed
		step      vm.Step
		detail    string // part of it
	}{
		{"kernel is no kernel", func(t *testing.T, s *vm.Spec) { s.Vmlinuz = k.root }, 20 * time.Second, vm.StepVMM, ""},
		{"image is not there", func(t *testing.T, s *vm.Spec) { s.ModulesImage = "/nonexistent" }, 20 * time.Second,
			vm.StepVMM, "/nonexistent"},
		{"more memory than there is", func(t *testing.T, s *vm.Spec) { s.MemoryMiB = 1 << 30 }, 20 * time.Second,
			vm.StepVMM, "memory"},
		{"initramfs without init", func(t *testing.T, s *vm.Spec) {
			s.Initramfs = filepath.Join(t.TempDir(), "empty.cpio")
			packInitramfs(t, s.Initramfs, "", nil)
		}, bootLimit, vm.StepKernel, "Kernel panic - not syncing: "},
		{"root image is not ext4", func(t *testing.T, s *vm.Spec) {
			s.RootImage = filepath.Join(t.TempDir(), "zeros")
			write(t, s.RootImage, make([]byte, 1<<20), 0o644)
		}, bootLimit, vm.StepRoot, "as ext4: invalid argument"},
		{"file system with errors is to grow", func(t *testing.T, s *vm.Spec) {
			s.RootImage = makeRoot(t, filepath.Join(t.TempDir(), "root"), nil)
			run(t, "debugfs", "-w", "-R", "set_super_value state 2", s.RootImage) // EXT4_ERROR_FS of fs/ext4/ext4.h
			s.DiskSize = 1 << 30
		}, bootLimit, vm.StepGrow, "growing the root file system to 1073741824 bytes: operation not permitted"},
		{"agent is not in the image", func(t *testing.T, s *vm.Spec) {
			s.RootImage = makeRoot(t, filepath.Join(t.TempDir(), "root"), map[string]string{"bin/guesttool": k.tool})
		}, bootLimit, vm.StepInit, `"/usr/lib/banger/banger-guest"`},
		{"init ends", func(t *testing.T, s *vm.Spec) { s.Init = "/bin/guesttool" }, bootLimit,
			vm.StepInit, "Kernel panic - not syncing: Attempted to kill init!"},
		{"init does not start the agent", func(t *testing.T, s *vm.Spec) {
			s.RootImage = makeRoot(t, filepath.Join(t.TempDir(), "root"), map[string]string{"sbin/idle": k.tool})
			s.Init, s.BootTimeout = "/sbin/idle", 40*time.Second
		}, 50 * time.Second, vm.StepAgent, "the image's init runs"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			spec := k.spec(t)
			test.breakSpec(t, &spec)
			begin := time.Now()
			m, err := Start(t.Context(), newRunner(), spec, rand.Reader)
			if err == nil {
				m.Kill()
				t.Fatal("the machine booted")
			}
			if took := time.Since(begin); took > test.limit {
				t.Errorf("the failure was noticed after %v, want %v at most", took, test.limit)
			}
			checkBootError(t, err, test.step, test.detail)
			checkNoSocket(t, spec.RuntimeDir)
			if pids := running(t, spec.RuntimeDir); len(pids) > 0 {
				t.Errorf("QEMU still runs: %v", pids)
			}
		})
	}
}

func checkBootError(t *testing.T, err error, step vm.Step, detail string) {
	t.Helper()
	var boot *vm.BootError
	if !errors.As(err, &boot) || fault.KindOf(err) != fault.Boot || fault.HintOf(err) == "" {
		t.Fatalf("the error is %#v, want a *vm.BootError with a hint", err)
	}
	if boot.Step != step || boot.Detail == "" || !strings.Contains(boot.Detail, detail) {
		t.Errorf("the boot failed with\n%v\nat the step %q, want %q and %q", err, boot.Step, step, detail)
	}
	if _, err := os.Stat(boot.Log); err != nil {
		t.Errorf("the console log is not kept: %v", err)
	}
	if step != vm.StepVMM && len(boot.Console) == 0 {
		t.Error("the error has no lines of the console")
	}
}

func TestMissingPrograms(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	write(t, image, make([]byte, 1<<20), 0o644)
	spec := exampleSpec()
	spec.RootImage, spec.Dir, spec.RuntimeDir = image, privateDir(t), privateDir(t)
	runner := system.NewCommandRunner("") // looks only where Debian and Ubuntu do not have QEMU
	_, err := Start(t.Context(), runner, spec, rand.Reader)
	if fault.KindOf(err) != fault.NoTool || !strings.Contains(fault.HintOf(err), "qemu-utils") {
		t.Errorf("without qemu-img: %v (hint %q), want a fault.NoTool that names qemu-utils", err, fault.HintOf(err))
	}

	onlyImg := t.TempDir()
	found, err := newRunner().Find("qemu-img")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(found, filepath.Join(onlyImg, "qemu-img")); err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), system.NewCommandRunner(onlyImg), spec, rand.Reader)
	if fault.KindOf(err) != fault.NoTool || !strings.Contains(fault.HintOf(err), "qemu-system-x86") {
		t.Errorf("without QEMU: %v (hint %q), want a fault.NoTool that names qemu-system-x86", err, fault.HintOf(err))
	}
}

func TestRefusedSpecs(t *testing.T) {
	tests := []struct {
		name   string
		change func(*testing.T, *vm.Spec)
		want   string
	}{
		{"no name", func(_ *testing.T, s *vm.Spec) { s.Name = "" }, "the name"},
		{"runtime directory with a long path", func(_ *testing.T, s *vm.Spec) {
			s.RuntimeDir = "/" + strings.Repeat("d", 107-len("/agent.sock"))
		}, "more than 107 bytes"},
		{"runtime directory that others can enter", func(t *testing.T, s *vm.Spec) {
			if err := os.Chmod(s.RuntimeDir, 0o711); err != nil {
				t.Fatal(err)
			}
		}, "0711"},
		{"directory that is not there", func(_ *testing.T, s *vm.Spec) { s.Dir = "/nonexistent" }, "/nonexistent"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spec := exampleSpec()
			spec.Dir, spec.RuntimeDir = privateDir(t), privateDir(t)
			test.change(t, &spec)
			_, err := Start(t.Context(), newRunner(), spec, rand.Reader)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Start = %v, want an error with %q", err, test.want)
			}
		})
	}
}

// childDir is set in the environment of the copy of this test that TestDiesWithBanger starts.
const childDir = "BANGER_TEST_CHILD"

// TestDiesWithBanger kills a process that boots a machine, and looks for the machine.
func TestDiesWithBanger(t *testing.T) {
	k := theKit(t)
	spec := k.spec(t)
	child := exec.Command(os.Args[0], "-test.run=^TestChildOfDiesWithBanger$")
	child.Env = append(os.Environ(), childDir+"="+strings.Join([]string{spec.Dir, spec.RuntimeDir, k.dir}, ":"))
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "QEMU to start", func() bool { return len(running(t, spec.RuntimeDir+"/agent.sock")) > 0 })
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	waitFor(t, "QEMU to end", func() bool { return len(running(t, spec.RuntimeDir+"/agent.sock")) == 0 })
}

func TestChildOfDiesWithBanger(t *testing.T) {
	dirs := strings.Split(os.Getenv(childDir), ":")
	if len(dirs) != 3 {
		return // this is not the child
	}
	k := kit{
		vmlinuz: only(t, filepath.Join(dirs[2], "kernel/boot/vmlinuz-*")), initramfs: filepath.Join(dirs[2], "initramfs.cpio"),
		root: filepath.Join(dirs[2], "root.ext4"),
	}
	m, err := Start(t.Context(), newRunner(), k.specIn(dirs[0], dirs[1]), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	<-m.Done()
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}

// TestDiskIsMadeWhole: a start that is killed while it makes the VM's disk leaves none that the next one would take.
func TestDiskIsMadeWhole(t *testing.T) {
	spec := exampleSpec()
	spec.Dir, spec.RuntimeDir = privateDir(t), privateDir(t)
	tools := t.TempDir()
	script := "#!/bin/sh\nfor file; do :; done\nprintf QFI >\"$file\"\n: >begun\nexec sleep 60\n"
	write(t, filepath.Join(tools, "qemu-img"), []byte(strings.ReplaceAll(script, "begun", filepath.Join(tools, "begun"))), 0o755)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := Start(ctx, system.NewCommandRunner(tools+":/usr/bin:/bin"), spec, rand.Reader)
		ended <- err
	}()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(filepath.Join(tools, "begun")); err == nil {
			break
		}
		if time.Since(begin) > time.Minute {
			t.Fatal("qemu-img is not run")
		}
	}
	if _, err := os.Stat(filepath.Join(spec.Dir, Overlay)); err == nil {
		t.Error("a disk that is half made has its name already")
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("a start that was cancelled has no error")
	}
	left, err := os.ReadDir(spec.Dir)
	if err != nil || len(left) > 0 {
		t.Errorf("%v is left (%v)", left, err)
	}
}

// TestWords: an error has the end of what QEMU printed, and not more than can be read and sent on.
func TestWords(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	write(t, log, append(bytes.Repeat([]byte("a guest that wants to be heard\n"), 1<<18), "the reason\n"...), 0o644)
	text := withWords(errors.New("exit status 1"), log).Error()
	if len(text) > 8<<10 || !strings.HasPrefix(text, "exit status 1: ") || !strings.HasSuffix(text, "; the reason") {
		t.Errorf("the error has %d bytes: %.50q … %q", len(text), text, text[len(text)-20:])
	}
}
