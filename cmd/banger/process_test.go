package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/imagepull"
)

// asBanger is the variable that makes the test's program be banger.
const asBanger = "BANGER_TEST_AS_BANGER"

func TestMain(m *testing.M) {
	if os.Getenv(asBanger) != "" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

// process prepares banger as a process of its own, on a home.
func process(ctx context.Context, home string, args ...string) *osexec.Cmd {
	cmd := osexec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), asBanger+"=1", "BANGER_HOME="+home, "BANGER_HOST=", "BANGER_PROGRESS=", "BANGER_LAYER_LIMIT=")
	return cmd
}

// said is what a process of banger gave.
type said struct {
	stdout, stderr string
	code           int
}

// runProcess runs banger on a home to its end.
func runProcess(t *testing.T, home string, args ...string) said {
	t.Helper()
	cmd := process(t.Context(), home, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatalf("starting banger %s: %v", strings.Join(args, " "), err)
	}
	return said{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// TestExitOfRun: where the exit code is that of a command in the guest, banger's own failures have a code apart.
func TestExitOfRun(t *testing.T) {
	home := t.TempDir()
	for command, want := range map[string]int{
		"vm run --env-file /nonexistent image":    exitOfRun,
		"vm run --rm image":                       exitOfRun,
		"vm run --cpus 0 image":                   int(fault.Usage),
		"vm run -e =x image":                      int(fault.Usage),
		"vm exec -e =x nothing true":              int(fault.Usage),
		"vm create --env-file /nonexistent image": int(fault.NotFound),
		"vm exec nothing true":                    exitOfRun,
		"vm exec -d nothing true":                 exitOfRun,
	} {
		if got := runProcess(t, home, strings.Fields(command)...); got.code != want {
			t.Errorf("banger %s: exit code %d, want %d\n%s", command, got.code, want, got.stderr)
		}
	}
}

// TestUsageForPrograms: an error of the command line is JSON where the others are.
func TestUsageForPrograms(t *testing.T) {
	home := t.TempDir()
	for _, command := range []string{"vm ls foo", "vm ls --bogus", "vm foo", "foo", "vm run --cpus many image", "vm run --cpus 0 image"} {
		got := runProcess(t, home, append([]string{"--progress", "json"}, strings.Fields(command)...)...)
		var line progressLine
		if err := json.Unmarshal([]byte(got.stderr), &line); err != nil || line.Error == nil || got.code != int(fault.Usage) {
			t.Errorf("banger --progress json %s: exit code %d, %v, and\n%s", command, got.code, err, got.stderr)
		}
	}
	if got := runProcess(t, home, "--progress", "odd", "vm", "ls"); got.code != int(fault.Usage) || !strings.Contains(got.stderr, "banger: hint") {
		t.Errorf("--progress odd: exit code %d, and\n%s", got.code, got.stderr)
	}
}

// TestHelp: what there is no help for is a wrong command line.
func TestHelp(t *testing.T) {
	home := t.TempDir()
	for command, want := range map[string]struct {
		code int
		word string
	}{
		"help":        {0, "Available Commands"},
		"help vm":     {0, "banger vm [command]"},
		"help vm run": {0, "--entrypoint"},
		"help foo":    {int(fault.Usage), "has no command"},
		"help vm foo": {int(fault.Usage), "banger vm has no command"},
	} {
		got := runProcess(t, home, strings.Fields(command)...)
		if got.code != want.code || !strings.Contains(got.stdout+got.stderr, want.word) {
			t.Errorf("banger %s: exit code %d, want %d and %q in\n%s%s", command, got.code, want.code, want.word, got.stdout, got.stderr)
		}
	}
}

// TestPasswordNeverComes: Ctrl-C ends a login that waits for a password on standard input.
func TestPasswordNeverComes(t *testing.T) {
	cmd := process(t.Context(), t.TempDir(), "login", "--username", "me", "--password-stdin", "localhost:1")
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = input.Close() }()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	for deadline := time.After(20 * time.Second); ; {
		select {
		case <-ended:
			// The signal may have come before there was somebody to catch it.
			if code := cmd.ProcessState.ExitCode(); code != int(fault.Interrupted) && code != -1 {
				t.Errorf("exit code %d, want %d", code, int(fault.Interrupted))
			}
			return
		case <-deadline:
			_ = cmd.Process.Kill()
			t.Fatal("it waits for ever")
		case <-time.After(500 * time.Millisecond):
			_ = cmd.Process.Signal(os.Interrupt)
		}
	}
}

// mustRun is runProcess for what has to succeed.
func mustRun(t *testing.T, home string, args ...string) string {
	t.Helper()
	s := runProcess(t, home, args...)
	if s.code != 0 {
		t.Fatalf("banger %s: exit code %d\n%s%s", strings.Join(args, " "), s.code, s.stdout, s.stderr)
	}
	return s.stdout
}

// saved writes what docker save would for an image whose layers have a file of some KiB each, named after the seeds: equal
// seeds are equal layers. It returns the reference.
func saved(t *testing.T, dir, name string, kib int, seeds ...byte) string {
	t.Helper()
	files := map[string]string{}
	var ids, layers []string
	for _, seed := range seeds {
		content := make([]byte, kib<<10)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(content)
		layer := string(tarOf(t, map[string]string{fmt.Sprintf("file-%d", seed): string(content)}))
		ids = append(ids, fmt.Sprintf(`"sha256:%x"`, sha256.Sum256([]byte(layer))))
		layers = append(layers, fmt.Sprintf(`"%d.tar"`, seed))
		files[fmt.Sprintf("%d.tar", seed)] = layer
	}
	files["config.json"] = `{"architecture":"amd64","os":"linux","config":{"Cmd":["/x"]},"rootfs":{"type":"layers","diff_ids":[` +
		strings.Join(ids, ",") + `]}}`
	files["manifest.json"] = `[{"Config":"config.json","RepoTags":["` + name + `:1"],"Layers":[` + strings.Join(layers, ",") + `]}]`
	path := filepath.Join(dir, name+".tar")
	if err := os.WriteFile(path, tarOf(t, files), 0o600); err != nil {
		t.Fatal(err)
	}
	return "docker-archive:" + path
}

// TestManyProcesses: processes that pull, prune and remove at the same time, some of which are killed, neither disturb each
// other nor leave anything that cannot be used or pruned.
func TestManyProcesses(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	references := []string{
		saved(t, dir, "one", 256, 1, 2), saved(t, dir, "two", 256, 1, 3, 4),
		saved(t, dir, "three", 256, 2, 4, 5), saved(t, dir, "four", 256, 5),
	}
	// What each process does, again and again; the failures that the others may cause it.
	jobs := []struct {
		args    []string
		allowed string
	}{
		{append([]string{"image", "pull", "--size", "64MiB"}, references[:2]...), ""},
		{append([]string{"image", "pull", "--size", "64MiB"}, references[1:]...), ""},
		{[]string{"image", "pull", "--size", "64MiB", references[3], references[0]}, ""},
		{[]string{"image", "prune", "--force", "--all"}, ""},
		{[]string{"image", "prune", "--force"}, ""},
		{[]string{"image", "rm", "one:1", "three:1"}, "there is none of that name"},
		{[]string{"system", "df", "--json"}, ""},
		{[]string{"image", "ls"}, ""},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	var working sync.WaitGroup
	for n, job := range jobs {
		working.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(n)))
			for ctx.Err() == nil {
				worked(t, random, home, job.args, job.allowed)
			}
		})
	}
	working.Wait()
	checkShelf(t, home)
	for _, reference := range references {
		mustRun(t, home, "image", "pull", "--size", "64MiB", reference)
	}
	checkShelf(t, home)
	mustRun(t, home, "image", "prune", "--force", "--all")
	for _, left := range []string{"images/????????*", "layers/sha256/*", "tmp/[^.]*"} {
		if files, _ := filepath.Glob(filepath.Join(home, left)); len(files) > 0 {
			t.Errorf("after all, %s is left", files)
		}
	}
}

// TestPruneInTheMiddle: what a pull has brought into the store stays while it makes its image, whatever others do.
func TestPruneInTheMiddle(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	one, two := saved(t, dir, "one", 1, 1, 2), saved(t, dir, "two", 1, 1, 3)
	mustRun(t, home, "image", "pull", two)
	pruned := 0
	e, err := engine.New(engine.Config{
		Home: home, RuntimeDir: filepath.Join(dir, "run"), Now: time.Now,
		Report: func(step imagepull.Step) {
			if step.Done && step.Name != "Pull" || step.Layer != nil {
				return
			}
			mustRun(t, home, "image", "rm", "two:1")
			mustRun(t, home, "image", "prune", "--force", "--all")
			mustRun(t, home, "image", "pull", two)
			pruned++
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.PullImage(t.Context(), one, engine.PullOptions{}); err != nil {
		t.Fatalf("a pull during which others prune and remove: %v", err)
	}
	if pruned < 4 {
		t.Errorf("the pull had %d moments in which others could prune", pruned)
	}
	checkShelf(t, home)
}

// worked runs banger, and kills it now and then in the middle. A failure is one of the test unless it says what is allowed.
func worked(t *testing.T, random *rand.Rand, home string, args []string, allowed string) {
	cmd := process(context.Background(), home, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Errorf("starting banger: %v", err)
		return
	}
	killed := random.IntN(3) == 0
	if killed {
		time.Sleep(time.Duration(random.IntN(250)) * time.Millisecond)
		_ = cmd.Process.Kill()
	}
	err := cmd.Wait()
	if err == nil || killed && cmd.ProcessState.ExitCode() < 0 || allowed != "" && strings.Contains(out.String(), allowed) {
		return
	}
	t.Errorf("banger %s: %v\n%s", strings.Join(args, " "), err, &out)
}

// checkShelf checks that every image can be read, and that all its layers are in the store.
func checkShelf(t *testing.T, home string) {
	t.Helper()
	var list struct{ Images []engine.NamedImage }
	if err := json.Unmarshal([]byte(mustRun(t, home, "image", "ls", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, image := range list.Images {
		for _, layer := range image.Layers {
			path := filepath.Join(home, "layers", "sha256", strings.TrimPrefix(layer.DiffID, "sha256:"))
			if _, err := os.Stat(path); err != nil {
				t.Errorf("the image %s has lost a layer: %v", image.Reference, err)
			}
		}
	}
}

// TestPullSeveral: one that cannot be pulled does not stop the rest, and gives the exit code.
func TestPullSeveral(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	one, two := saved(t, dir, "one", 1, 1), saved(t, dir, "two", 1, 2)
	got := runProcess(t, home, "image", "pull", one, "docker-archive:/no/such.tar", two, "localhost:1/nothing")
	if got.code != 3 || !strings.Contains(got.stdout, "one:1") || !strings.Contains(got.stdout, "two:1") {
		t.Errorf("exit code %d, want 3, that of the first failure, after both images:\n%s%s", got.code, got.stdout, got.stderr)
	}
	for _, words := range []string{"Pulling " + one + "\n", "Pulling " + two + "\n", "/no/such.tar", "localhost:1/nothing"} {
		if !strings.Contains(got.stderr, words) {
			t.Errorf("on standard error there is no %q:\n%s", words, got.stderr)
		}
	}
	got = runProcess(t, home, "image", "pull", "--name", "x", one, two)
	if got.code != 2 || got.stdout != "" || !strings.Contains(got.stderr, "--name") {
		t.Errorf("one name for two images: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	quiet := runProcess(t, home, "image", "pull", "-q", one, two)
	var list struct{ Images []engine.NamedImage }
	if err := json.Unmarshal([]byte(mustRun(t, home, "image", "ls", "--json")), &list); err != nil || len(list.Images) != 2 {
		t.Fatalf("there are %+v (%v)", list, err)
	}
	digests := map[string]string{}
	for _, image := range list.Images {
		digests[image.Names[0]] = image.Digest
	}
	if want := digests["one:1"] + "\n" + digests["two:1"] + "\n"; quiet.stdout != want || quiet.stderr != "" || quiet.code != 0 {
		t.Errorf("with -q: exit code %d, %q and %q; want the digests %q alone", quiet.code, quiet.stdout, quiet.stderr, want)
	}
	var printed struct {
		Schema int
		Pulled []engine.Pulled
	}
	text := mustRun(t, home, "image", "pull", "--json", one)
	err := json.Unmarshal([]byte(text), &printed)
	if err != nil || printed.Schema != 1 || len(printed.Pulled) != 1 || printed.Pulled[0].Name != "one:1" {
		t.Errorf("with --json: %v\n%s", err, text)
	}
}

// TestLayerLimit: BANGER_LAYER_LIMIT keeps the layers of images that are removed, the most recently used ones.
func TestLayerLimit(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	references := []string{saved(t, dir, "one", 100, 1), saved(t, dir, "two", 100, 2), saved(t, dir, "three", 100, 3)}
	limited := func(limit string, args ...string) said {
		t.Helper()
		cmd := process(t.Context(), home, args...)
		cmd.Env = append(cmd.Env, "BANGER_LAYER_LIMIT="+limit)
		out, _ := cmd.CombinedOutput()
		return said{stdout: string(out), code: cmd.ProcessState.ExitCode()}
	}
	layers := func() int {
		files, _ := filepath.Glob(filepath.Join(home, "layers", "sha256", "*"))
		indexes, _ := filepath.Glob(filepath.Join(home, "layers", "sha256", "*.index"))
		if len(files) != 2*len(indexes) {
			t.Fatalf("not every layer has an index, or not every index a layer: %q", files)
		}
		return len(indexes)
	}
	for _, step := range []struct {
		limit string
		args  []string
		left  int
	}{
		{"", append([]string{"image", "pull"}, references...), 3},
		{"", []string{"image", "rm", "one:1"}, 2},
		{"1GiB", []string{"image", "rm", "two:1"}, 2},
		{"1GiB", []string{"image", "pull", references[0]}, 3},
		{"1GiB", []string{"image", "rm", "one:1", "three:1"}, 3},
		{"250KiB", []string{"image", "pull", references[2]}, 3}, // two of 104 KiB that nothing needs
		{"150KiB", []string{"image", "pull", "--size", "70MiB", references[2]}, 2},
		{"0", []string{"image", "pull", "--size", "80MiB", references[2]}, 1},
		{"0", []string{"image", "prune", "--force", "--all"}, 0},
	} {
		got := limited(step.limit, step.args...)
		if got.code != 0 || layers() != step.left {
			t.Fatalf("%v with the limit %q: exit code %d, and %d layers are left, want %d\n%s",
				step.args, step.limit, got.code, layers(), step.left, got.stdout)
		}
	}
	for _, wrong := range []string{"much", "-1", "5 apples"} {
		got := limited(wrong, "image", "ls")
		if got.code != 2 || !strings.Contains(got.stdout, "BANGER_LAYER_LIMIT") {
			t.Errorf("the limit %q: exit code %d\n%s", wrong, got.code, got.stdout)
		}
	}
}

// TestProgressModes: what --progress and BANGER_PROGRESS have on standard error.
func TestProgressModes(t *testing.T) {
	dir := t.TempDir()
	reference := saved(t, dir, "one", 1, 1)
	pull := func(variable string, args ...string) said {
		t.Helper()
		home := filepath.Join(t.TempDir(), "home")
		cmd := process(t.Context(), home, append([]string{"image", "pull", reference}, args...)...)
		cmd.Env = append(cmd.Env, "BANGER_PROGRESS="+variable)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run()
		return said{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	}
	for _, c := range []struct {
		name, variable string
		args           []string
		check          func(stderr string) bool
	}{
		{"without a terminal", "", nil, isPlain},
		{"auto", "none", []string{"--progress", "auto"}, isPlain},
		{"plain", "", []string{"--progress", "plain"}, isPlain},
		{"the variable", "plain", nil, isPlain},
		{"none", "", []string{"--progress=none"}, func(text string) bool { return text == "" }},
		{"json", "", []string{"--progress", "json"}, isJSON},
		{"tty", "plain", []string{"--progress", "tty"}, func(text string) bool {
			return strings.Contains(text, "\x1b[2K") && strings.Contains(text, "0 of 1 layer")
		}},
	} {
		got := pull(c.variable, c.args...)
		if got.code != 0 || !strings.HasPrefix(got.stdout, "one:1 ") || !c.check(got.stderr) {
			t.Errorf("%s: exit code %d, %q and\n%s", c.name, got.code, got.stdout, got.stderr)
		}
	}
	for _, wrong := range []said{pull("", "--progress", "fancy"), pull("fancy")} {
		if wrong.code != 2 || !strings.Contains(wrong.stderr, `"fancy"`) || !strings.Contains(wrong.stderr, "plain") {
			t.Errorf("a mode that there is not: exit code %d\n%s", wrong.code, wrong.stderr)
		}
	}
	failed := pull("json", "--platform", "linux/arm64")
	last := progressLine{}
	lines := strings.Split(strings.TrimSpace(failed.stderr), "\n")
	err := json.Unmarshal([]byte(lines[len(lines)-1]), &last)
	if err != nil || last.Error == nil || last.Error.Kind != "platform" || failed.code != 7 {
		t.Errorf("a failure with json: exit code %d\n%s", failed.code, failed.stderr)
	}
}

func isPlain(stderr string) bool {
	return strings.Contains(stderr, "  downloading ") && strings.Contains(stderr, "  done\n") && strings.Contains(stderr, "\nBuildExt4 ") &&
		!strings.Contains(stderr, "\x1b") && !strings.Contains(stderr, "\r")
}

// isJSON reports whether each line is a progressLine, and what is said of a layer and of the build.
func isJSON(stderr string) bool {
	states, built := "", false
	for line := range strings.Lines(stderr) {
		var p progressLine
		decoder := json.NewDecoder(strings.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&p); err != nil || p.Schema != 1 || p.Step == nil {
			return false
		}
		if p.Step.Layer != nil && !strings.HasSuffix(states, string(p.Step.Layer.State)+" ") {
			states += string(p.Step.Layer.State) + " "
		}
		built = built || p.Step.Name == "BuildExt4" && p.Step.Done && p.Step.Elapsed > 0
	}
	return states == "waiting downloading unpacking done " && built
}
