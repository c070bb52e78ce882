package monitor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/banger-vm/banger/internal/guest/channel"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
)

// pretendVMM is the variable that makes this program a VMM.
const pretendVMM = "BANGER_TEST_PRETEND_VMM"

func TestMain(m *testing.M) {
	if os.Getenv(pretendVMM) != "" {
		fmt.Fprintln(os.Stderr, beVMM(os.Args))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// beVMM is a VMM and its guest: it takes QEMU's arguments and answers as the agent does, and the guest's commands are
// processes of this host. A command finds it as its parent, and the VM's directory as $VM. Files there change what it does:
//
//   - slow: the guest boots when the file is gone
//   - stubborn: the guest does not power off
//   - jobs: the guest's init has jobs of the boot
//   - vanish: the agent goes away for good when it is asked for those jobs
//   - mute: the agent takes commands and never says that they run
//   - chatty: the VMM prints what the file has, every now and then
//   - off, panic: SIGUSR1 has it power off, or its kernel panic; without either, SIGUSR1 restarts the agent
func beVMM(args []string) error {
	line := argument(args, "banger.magic=")
	secret, err := hex.DecodeString(line)
	if err != nil {
		return err
	}
	magic := [channel.MagicSize]byte(secret)
	listener, err := net.Listen("unix", argument(args, "socket,id=channel,server=on,wait=off,path="))
	if err != nil {
		return err
	}
	vm := directory(filepath.Dir(argument(args, "file,id=console,append=on,path=")))
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	restart := make(chan struct{}, 1)
	go func() {
		for range signals {
			switch {
			case vm.has("panic"):
				vm.print("[1.0] Kernel panic - not syncing: sysrq triggered crash")
				os.Exit(0)
			case vm.has("off"):
				os.Exit(0)
			}
			restart <- struct{}{}
		}
	}()
	go vm.chat()
	vm.print("banger-guest: step handover")
	for vm.has("slow") {
		time.Sleep(time.Millisecond)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		if vm.has("vanish") {
			go vm.vanish(conn)
		}
		go vm.serveAgain(conn, magic, restart)
	}
}

// chat prints on what is the VMM's own log.
func (d directory) chat() {
	for ; ; time.Sleep(time.Millisecond) {
		if text, err := os.ReadFile(filepath.Join(string(d), "chatty")); err == nil {
			_, _ = os.Stderr.Write(text)
		}
	}
}

// serveAgain serves the agent, and another one on the same port after a restart.
func (d directory) serveAgain(conn net.Conn, magic [channel.MagicSize]byte, restart <-chan struct{}) {
	for {
		port := &restartable{Conn: conn, ended: make(chan struct{})}
		go func() {
			<-restart
			close(port.ended)
			_ = conn.SetReadDeadline(time.Unix(1, 0))
		}()
		_ = channel.Serve(port, magic, d.router().Serve)
		select {
		case <-port.ended:
			_ = conn.SetReadDeadline(time.Time{})
		default:
			return
		}
	}
}

// restartable is a port that an agent can lose.
type restartable struct {
	net.Conn
	ended chan struct{}
}

// router answers as the agent does, for this process's user.
func (d directory) router() frame.Router {
	guest := exec.Guest{
		Config:   exec.Config{Env: []string{"PATH=/usr/bin:/bin", "VM=" + string(d)}, User: "tester"},
		Etc:      fstest.MapFS{"passwd": {Data: fmt.Appendf(nil, "tester:x:%d:%d::/:/bin/sh\n", os.Getuid(), os.Getgid())}},
		Poweroff: d.powerOff,
		WaitBoot: d.waitBoot,
	}
	all := frame.Router{}
	maps.Copy(all, guest.Handlers())
	if d.has("mute") {
		all["exec"] = func(stream net.Conn, _ []byte) *frame.Refusal {
			d.touch("asked")
			_, _ = io.Copy(io.Discard, stream)
			return nil
		}
	}
	for _, do := range []string{"seed", "clock", "sync"} {
		all[do] = func(stream net.Conn, _ []byte) *frame.Refusal {
			if do == "sync" {
				d.touch("synced")
			}
			frame.Answer(stream, map[string]int64{"unix_ns": time.Now().UnixNano()})
			return nil
		}
	}
	return all
}

// vanish ends a session once the guest has been asked whether it has booted, and every one that follows.
func (d directory) vanish(conn net.Conn) {
	for !d.has("waiting") {
		time.Sleep(time.Millisecond)
	}
	_ = conn.Close()
}

func (d directory) waitBoot(ctx context.Context) {
	d.touch("waiting")
	for d.has("jobs") && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
}

func (d directory) powerOff() error {
	if d.has("stubborn") {
		return nil
	}
	d.touch("powered-off")
	time.AfterFunc(20*time.Millisecond, func() { os.Exit(0) })
	return nil
}

// directory is a VM's. The VMM's own working directory will not do: starting a process may change it.
type directory string

func (d directory) has(file string) bool {
	_, err := os.Stat(filepath.Join(string(d), file))
	return err == nil
}

func (d directory) touch(file string) { _ = os.WriteFile(filepath.Join(string(d), file), nil, 0o600) }

// print prints on the console.
func (d directory) print(text string) {
	file, err := os.OpenFile(filepath.Join(string(d), "console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, _ = fmt.Fprintln(file, text)
		_ = file.Close()
	}
}

// argument returns what follows a prefix in the words of args.
func argument(args []string, prefix string) string {
	for word := range strings.FieldsSeq(strings.Join(args, " ")) {
		if value, found := strings.CutPrefix(word, prefix); found {
			return value
		}
	}
	return ""
}

// programs makes a directory with a qemu-system-x86_64 that is this program, and a qemu-img.
func programs(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, script := range map[string]string{
		"qemu-system-x86_64": "#!/bin/sh\n" + "GORACE=atexit_sleep_ms=0 " + pretendVMM + `=1 exec "` + self + `" "$@"` + "\n",
		"qemu-img":           "#!/bin/sh\nfor file; do :; done\n: >\"$file\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// errOverdue ends what a test waits for too long.
var errOverdue = errors.New("the test's time is over")

func patiently(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Second, errOverdue)
	t.Cleanup(cancel)
	return ctx
}
