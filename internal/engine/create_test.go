package engine

import (
	"encoding/json"
	"slices"
	"strings"
	"syscall"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/store"
	"github.com/banger-vm/banger/internal/vm/instance"
)

func imageOf(t *testing.T, config ocispec.ImageConfig) store.Image {
	t.Helper()
	text, err := json.Marshal(ocispec.Image{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	return store.Image{Config: text}
}

// TestWorkload: which command a VM runs, by docker's rules, and when it is a machine without one.
func TestWorkload(t *testing.T) {
	const (
		machine = "machine"
		shell   = "login shell"
		none    = "error"
	)
	tool := ocispec.ImageConfig{Entrypoint: []string{"tool", "-x"}, Cmd: []string{"serve", "all"}}
	init := func(argv ...string) ocispec.ImageConfig { return ocispec.ImageConfig{Cmd: argv} }
	entry := func(s string) *string { return &s }
	for _, c := range []struct {
		name       string
		image      ocispec.ImageConfig
		systemd    bool
		args       []string
		entrypoint *string
		tty        bool
		want       string // the command's words with blanks between
	}{
		{name: "the image's own", image: tool, want: "tool -x serve all"},
		{name: "arguments replace Cmd", image: tool, args: []string{"help"}, want: "tool -x help"},
		{name: "another entrypoint drops Cmd", image: tool, entrypoint: entry("sh"), want: "sh"},
		{name: "another entrypoint with arguments", image: tool, entrypoint: entry("sh"), args: []string{"-c", "a b"}, want: "sh -c a b"},
		{name: "no entrypoint, arguments", image: tool, entrypoint: entry(""), args: []string{"ls", "-l"}, want: "ls -l"},
		{name: "no entrypoint, no arguments", image: tool, entrypoint: entry(""), want: none},
		{name: "Cmd alone", image: init("sh"), want: "sh"},
		{name: "nothing", want: none},
		{name: "nothing, with arguments", args: []string{"true"}, want: "true"},
		{name: "systemd as Cmd, where it is not the init", image: init("/sbin/init"), want: "/sbin/init"},

		{name: "systemd and nothing", systemd: true, want: machine},
		{name: "systemd and nothing, on a terminal", systemd: true, tty: true, want: shell},
		{name: "systemd as Cmd", image: init("/sbin/init"), systemd: true, want: machine},
		{name: "systemd as Cmd with its flags", image: init("/lib/systemd/systemd", "--show-status=1"), systemd: true, want: machine},
		{name: "systemd as Entrypoint", image: ocispec.ImageConfig{Entrypoint: []string{"/usr/sbin/init"}}, systemd: true, want: machine},
		{name: "systemd as Entrypoint, with arguments", image: ocispec.ImageConfig{Entrypoint: []string{"/sbin/init"}}, systemd: true,
			args: []string{"id", "-u"}, want: "id -u"},
		{name: "systemd asked for", image: tool, systemd: true, entrypoint: entry("/sbin/init"), want: machine},
		{name: "systemd as an argument", image: init("bash"), systemd: true, args: []string{"/sbin/init"}, want: machine},
		{name: "systemd as Cmd, on a terminal", image: init("/sbin/init"), systemd: true, tty: true, want: shell},
		{name: "systemd and a bare shell", image: init("/bin/bash"), systemd: true, want: machine},
		{name: "systemd and a bare shell, on a terminal", image: init("bash"), systemd: true, tty: true, want: shell},
		{name: "systemd and a shell with work", image: init("sh", "-c", "serve"), systemd: true, want: "sh -c serve"},
		{name: "systemd and a shell that is asked for", image: init("bash"), systemd: true, args: []string{"sh"}, want: "sh"},
		{name: "systemd and a service", image: tool, systemd: true, want: "tool -x serve all"},
		{name: "systemd and a command", image: init("bash"), systemd: true, args: []string{"true"}, tty: true, want: "true"},
	} {
		t.Run(c.name, func(t *testing.T) {
			options := VMOptions{Args: c.args, Entrypoint: c.entrypoint, Terminal: c.tty, Input: true}
			w, err := workloadOf(options, imageOf(t, c.image), c.systemd)
			got := machine
			switch {
			case err != nil:
				got = none
				if fault.KindOf(err) != fault.Usage || fault.HintOf(err) == "" {
					t.Errorf("the error %v has the kind %d and the hint %q", err, fault.KindOf(err), fault.HintOf(err))
				}
			case w != nil && w.Login:
				got = shell
			case w != nil:
				got = strings.Join(w.Argv, " ")
			}
			if got != c.want {
				t.Errorf("got %q (%v), want %q", got, err, c.want)
			}
			if w != nil && (w.TTY != c.tty || !w.Stdin || w.StopSignal != int(syscall.SIGTERM)) {
				t.Errorf("got %+v", w)
			}
		})
	}
}

func TestStopSignal(t *testing.T) {
	for text, want := range map[string]int{"": 15, "SIGINT": 2, "QUIT": 3, "37": 37, "SIGRTMIN+3": 37} {
		w, err := workloadOf(VMOptions{}, imageOf(t, ocispec.ImageConfig{Cmd: []string{"a"}, StopSignal: text}), false)
		if err != nil || w.StopSignal != want {
			t.Errorf("StopSignal %q: got %+v (%v), want %d", text, w, err, want)
		}
	}
	if _, err := workloadOf(VMOptions{}, imageOf(t, ocispec.ImageConfig{Cmd: []string{"a"}, StopSignal: "SIGNONSENSE"}), false); err == nil ||
		!strings.Contains(err.Error(), "StopSignal") || !strings.Contains(err.Error(), "SIGNONSENSE") {
		t.Errorf("an unknown StopSignal gives %v", err)
	}
}

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]syscall.Signal{
		"9": 9, "KILL": 9, "SIGKILL": 9, "kill": 9, "sigHup": 1, "USR1": 10, "64": 64,
		"RTMIN": 34, "SIGRTMIN": 34, "RTMIN+3": 37, "rtmin+30": 64, "RTMAX": 64, "SIGRTMAX-30": 34,
		"": 0, "0": 0, "65": 0, "-1": 0, "SIG": 0, "SIGNONSENSE": 0, "RTMIN+31": 0, "RTMIN-1": 0, "RTMAX+1": 0, "RTMINx": 0, "9 ": 0,
	} {
		got, err := ParseSignal(text)
		if want == 0 && (fault.KindOf(err) != fault.Usage || err == nil) || want != 0 && err != nil || got != want {
			t.Errorf("%q: got %d (%v), want %d", text, got, err, want)
		}
	}
}

// TestVMName: a made-up name is a host name that says what the image was called.
func TestVMName(t *testing.T) {
	for image, want := range map[string]string{
		"debian:bookworm": "debian", "localhost:5000/team/My_Tool@sha256:abc": "mytoolsha256", "oci:/a/b.c:v1": "bc",
		"docker-archive:/x/alpine-3.10.tar.gz": "alpine310targz", "::": "vm", strings.Repeat("x", 99): strings.Repeat("x", 24),
	} {
		name := vmName(image)
		base, random, found := strings.Cut(name, "-")
		if base != want || !found || len(random) != 6 || vmName(image) == name {
			t.Errorf("%q is called %q, want %q and six characters that change", image, name, want)
		}
	}
}

func TestSuggest(t *testing.T) {
	names := []string{"web", "web2", "database", "worker-1"}
	for wanted, want := range map[string]string{
		"wbe": "otherwise", "wev": "did you mean web?", "we": "did you mean web, web2?", "databse": "did you mean database?", "data": "did you mean database?",
		"worker1": "did you mean worker-1?", "nonsense": "otherwise", "": "otherwise", "Web": "did you mean web?",
	} {
		if got := suggest(wanted, names, "otherwise"); got != want {
			t.Errorf("%q: got %q, want %q", wanted, got, want)
		}
	}
	if got := suggest("a", []string{"aa", "aa", "ab", "ac", "ad"}, ""); got != "did you mean aa, ab, ac?" {
		t.Errorf("many names: got %q, want three different ones", got)
	}
}

func TestCheckMemory(t *testing.T) {
	for meminfo, want := range map[string]int64{
		"MemTotal: 100 kB\nMemAvailable:    1024 kB\n": 1 << 20, "MemAvailable: 5 kB": 5 << 10, "MemFree: 5 kB\n": -1, "MemAvailable: lots kB\n": -1, "": -1,
	} {
		got, known := availableMemory(meminfo)
		if !known {
			got = -1
		}
		if got != want {
			t.Errorf("%q: got %d, want %d", meminfo, got, want)
		}
	}
	if err := checkMemory("/proc/meminfo", 1<<20); err != nil {
		t.Errorf("1 MiB: %v", err)
	}
	if err := checkMemory("/nonexistent", 1<<60); err != nil {
		t.Errorf("a host that does not tell: %v", err)
	}
	err := checkMemory("/proc/meminfo", 1<<50)
	if fault.KindOf(err) != fault.NoSpace || !strings.Contains(err.Error(), "1PiB") || !strings.Contains(fault.HintOf(err), "--memory") {
		t.Errorf("1 PiB: got %v with the hint %q", err, fault.HintOf(err))
	}
}

func TestBootOf(t *testing.T) {
	const agent = "/usr/lib/banger/banger-guest"
	for _, c := range []struct {
		choice, image string
		want          boot
	}{
		{"", "systemd", boot{program: "/sbin/init", systemd: true}},
		{"auto", "systemd", boot{program: "/sbin/init", systemd: true}},
		{"auto", "guest", boot{program: agent}},
		{"guest", "systemd", boot{program: agent}},
		{"/sbin/init", "systemd", boot{program: "/sbin/init", systemd: true}},
		{"/sbin/init", "guest", boot{program: "/sbin/init", systemd: true, spawn: true}},
		{"/opt/init", "systemd", boot{program: "/opt/init", spawn: true}},
	} {
		if got, err := bootOf(c.choice, c.image); err != nil || got != c.want {
			t.Errorf("--init %q of an image with %s: got %+v (%v), want %+v", c.choice, c.image, got, err, c.want)
		}
	}
	for _, bad := range []string{"systemd", "sbin/init", " "} {
		if _, err := bootOf(bad, "guest"); fault.KindOf(err) != fault.Usage {
			t.Errorf("--init %q gives %v, want a usage error", bad, err)
		}
	}
}

// TestCommandIn: environment, user and directory of a command are the VM's own unless it says otherwise.
func TestCommandIn(t *testing.T) {
	i := &instance.Instance{Config: instance.Config{User: "u", Dir: "/d", Env: []string{"A=1", "B=2"}}}
	got := commandIn(i, exec.Command{Env: []string{"B=3"}})
	if got.User != "u" || got.Dir != "/d" || !slices.Equal(got.Env, []string{"A=1", "B=2", "B=3"}) {
		t.Errorf("what is left empty: got %+v", got)
	}
	got = commandIn(i, exec.Command{User: "v", Dir: "/e"})
	if got.User != "v" || got.Dir != "/e" || len(i.Env) != 2 {
		t.Errorf("what is given: got %+v, and the VM has %q", got, i.Env)
	}
}
