package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/store"
	"github.com/banger-vm/banger/internal/vm/instance"
	"github.com/banger-vm/banger/internal/vm/output"
)

// TestVerbs is the contract of verbs: the engine and the client of a daemon do the same, and say the same.
func TestVerbs(t *testing.T) {
	for name, check := range map[string]func(*world){
		"images": checkImages, "files": checkFiles, "contents": checkContents, "differences": checkDifferences,
		"damaged images": checkDamage, "housekeeping": checkHousekeeping, "pulls that fail": checkBadPulls,
		"archives": checkArchives, "input": checkInput, "kernels": checkKernels, "VMs": checkVMs,
		"VMs that do not run": checkStopped, "VMs that are not there": checkUnknown, "broken VM": checkBroken,
		"commands": checkCommands, "detached command": checkDetached, "stream": checkStream, "logs": checkLogs,
		"doctor": checkDoctor, "cancelled": checkCancelled, "runs that fail": checkBadRuns,
	} {
		t.Run(name, func(t *testing.T) {
			said := map[string][]string{}
			for implementation, make := range worlds() {
				t.Run(implementation, func(t *testing.T) {
					w := make(t)
					check(w)
					said[implementation] = append(w.said, w.steps...)
				})
			}
			if !t.Failed() && !slices.Equal(said["engine"], said["daemon"]) {
				t.Errorf("the engine and the daemon's client differ:\n%s", difference(said["engine"], said["daemon"]))
			}
		})
	}
}

// difference returns the first lines that differ.
func difference(a, b []string) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return a[i] + "\n" + b[i]
		}
	}
	return strings.Join(a[min(len(a), len(b)):], "\n") + "\n" + strings.Join(b[min(len(a), len(b)):], "\n")
}

func checkImages(w *world) {
	ctx := w.Context()
	archive := w.archive("motd.tar")
	w.Chdir(w.dir) // relative paths are the client's
	pulled, err := w.verbs.PullImage(ctx, "docker-archive:motd.tar", engine.PullOptions{Size: 128 << 20})
	w.must("pulling", err)
	w.gave("pulled", pulled)
	if !pulled.Fresh || pulled.Name != "local/motd:1" || pulled.Image.Reference != "docker-archive:"+archive {
		w.Errorf("pulled %+v", pulled)
	}
	again, err := w.verbs.PullImage(ctx, "docker-archive:"+archive, engine.PullOptions{Name: "other", Size: 128 << 20})
	w.must("pulling again", err)
	if again.Fresh || again.Image.ID != pulled.Image.ID {
		w.Errorf("the same image under another name is %+v", again)
	}
	images, err := w.verbs.ListImages(ctx)
	w.must("listing", err)
	w.gave("images", images)
	for _, query := range []string{"local/motd:1", "motd:1", "other", pulled.Image.ID, pulled.Image.ID[:6], pulled.Image.Digest} {
		details, err := w.verbs.InspectImage(ctx, query)
		w.must("inspecting "+query, err)
		w.gave("details", details)
	}
	exported(w, "motd:1")
	for _, name := range []string{"other", "local/motd:1"} {
		removed, err := w.verbs.RemoveImage(ctx, name)
		if err != nil || removed != name {
			w.Errorf("removing %q: removed %q (%v)", name, removed, err)
		}
	}
	_, err = w.verbs.InspectImage(ctx, "local/motd:1")
	w.fails("inspecting what is gone", err, fault.NotFound, "local/motd:1")
	_, err = w.verbs.RemoveImage(ctx, "a/b/c")
	w.fails("removing what never was", err, fault.NotFound, "a/b/c")
}

// checkHousekeeping: what takes space, and what is removed of it.
func checkHousekeeping(w *world) {
	ctx := w.Context()
	nothing, err := w.verbs.DiskUsage(ctx)
	w.must("measuring nothing", err)
	w.gave("an empty home", nothing)
	archive := w.archive("motd.tar")
	for _, options := range []engine.PullOptions{{Name: "x", Size: 128 << 20}, {Name: "x", Size: 64 << 20}, {Name: "of-vm", Size: 100 << 20}} {
		_, err := w.verbs.PullImage(ctx, "docker-archive:"+archive, options)
		w.must("pulling", err)
	}
	images, err := w.verbs.ListImages(ctx)
	w.must("listing", err)
	for _, image := range images {
		if slices.Contains(image.Names, "of-vm") {
			w.publishedOf("web", image.ID)
		}
	}
	used, err := w.verbs.DiskUsage(ctx)
	w.must("measuring", err)
	for i := range used.Layers {
		used.Layers[i].LastUse = time.Time{} // of the file system
	}
	for i := range used.Images {
		coarsen(&used.Images[i].Disk, &used.Images[i].Unique)
	}
	for i := range used.Totals {
		coarsen(&used.Totals[i].Size, &used.Totals[i].Reclaimable)
	}
	w.gave("used", used)
	for _, c := range []struct {
		options engine.PruneOptions
		images  int
		layers  int
	}{
		{engine.PruneOptions{Until: time.Unix(1, 0)}, 0, 0},
		{engine.PruneOptions{DryRun: true}, 1, 0},
		{engine.PruneOptions{}, 1, 0},
		{engine.PruneOptions{All: true, DryRun: true}, 1, 0},
		{engine.PruneOptions{All: true}, 1, 0},
		{engine.PruneOptions{All: true}, 0, 0},
	} {
		pruned, err := w.verbs.PruneImages(ctx, c.options)
		w.must("pruning", err)
		for i := range pruned.Images {
			coarsen(&pruned.Images[i].Size)
		}
		coarsen(&pruned.Reclaimed)
		w.gave("pruned", pruned)
		if len(pruned.Images) != c.images || len(pruned.Layers) != c.layers || pruned.Images == nil || pruned.Partial == nil {
			w.Errorf("pruning with %+v removed %+v", c.options, pruned)
		}
	}
	w.must("spoiling the VM", os.WriteFile(filepath.Join(w.home, "vms", "web", instance.ConfigFile), []byte("{"), 0o600))
	_, err = w.verbs.DiskUsage(ctx)
	w.fails("measuring a broken VM", err, fault.Corrupt, "web")
	_, err = w.verbs.PruneImages(ctx, engine.PruneOptions{All: true})
	w.fails("pruning with a broken VM", err, fault.Corrupt, "web")
}

// coarsen rounds sizes on the disk down to a MiB, of which every disk here has a few and a little more. The host's file
// system takes some blocks more for a file that it has in many pieces.
func coarsen(sizes ...*int64) {
	for _, size := range sizes {
		*size &^= 1<<20 - 1
	}
}

// exported checks that an export has the digest that the image is said to have.
func exported(w *world, image string) {
	w.Helper()
	w.must("exporting", w.verbs.ExportImage(w.Context(), image, "disk.ext4"))
	disk, err := os.ReadFile(filepath.Join(w.dir, "disk.ext4"))
	w.must("reading the export", err)
	details, err := w.verbs.InspectImage(w.Context(), image)
	w.must("inspecting", err)
	if sum := sha256.Sum256(disk); hex.EncodeToString(sum[:]) != details.SHA256 {
		w.Errorf("the export has the SHA-256 %x, the image is said to have %s", sum, details.SHA256)
	}
	w.fails("exporting to a directory", w.verbs.ExportImage(w.Context(), image, w.dir), fault.Usage)
	w.fails("exporting to nowhere", w.verbs.ExportImage(w.Context(), image, w.dir+"/no/such/disk"), fault.NotFound)
	w.fails("exporting to -", w.verbs.ExportImage(w.Context(), image, "-"), fault.Usage)
}

func checkBadPulls(w *world) {
	for _, c := range []struct {
		reference string
		options   engine.PullOptions
		kind      fault.Kind
	}{
		{"docker-archive:/no/such/file.tar", engine.PullOptions{}, fault.NotFound},
		{"docker-archive:", engine.PullOptions{}, fault.Usage},
		{"", engine.PullOptions{}, fault.Usage},
		{"UPPER CASE", engine.PullOptions{}, fault.Usage},
		{"localhost:1/nothing", engine.PullOptions{}, fault.Unreachable},
		{"localhost:1/insecure", engine.PullOptions{RegistryOptions: engine.RegistryOptions{Insecure: true}}, fault.Unreachable},
		{"localhost:1/ca", engine.PullOptions{RegistryOptions: engine.RegistryOptions{CAFile: "/no/such.pem"}}, fault.Usage},
		{"localhost:1/dir", engine.PullOptions{RegistryOptions: engine.RegistryOptions{CertDir: "/no/such"}}, fault.Usage},
		{"docker-archive:" + w.archive("motd.tar"), engine.PullOptions{Builder: "magic"}, fault.Usage},
		{"docker-archive:" + w.archive("motd.tar"), engine.PullOptions{Name: "a b"}, fault.Usage},
		{"docker-archive:" + w.archive("motd.tar"), engine.PullOptions{Size: 4096}, fault.NoSpace},
		{"docker-archive:" + w.archive("motd.tar"), engine.PullOptions{Platform: "linux/arm64"}, fault.Platform},
	} {
		_, err := w.verbs.PullImage(w.Context(), c.reference, c.options)
		w.fails("pulling "+c.reference, err, c.kind)
	}
	images, err := w.verbs.ListImages(w.Context())
	if err != nil || len(images) > 0 {
		w.Errorf("after pulls that failed there are %v (%v)", images, err)
	}
}

// checkArchives: what is saved is the image that was pulled, and can be pulled again.
func checkArchives(w *world) {
	ctx := w.Context()
	w.Chdir(w.dir)
	pulled, err := w.verbs.PullImage(ctx, "docker-archive:"+w.archive("motd.tar"), engine.PullOptions{Size: 128 << 20})
	w.must("pulling", err)
	checkSavedNames(w, pulled)
	for format, transport := range map[string]string{engine.SaveDocker: "docker-archive:", engine.SaveOCI: "oci-archive:"} {
		write := func(to io.Writer) error { return w.verbs.SaveImages(ctx, []string{"motd:1"}, format, to) }
		w.must("saving", engine.WriteFile(format+".tar", write))
		again, err := w.verbs.PullImage(ctx, transport+format+".tar", engine.PullOptions{Name: format, Size: 128 << 20})
		w.must("pulling what was saved", err)
		if !slices.Equal(again.Image.Layers[:1], []store.Layer{{Digest: again.Image.Layers[0].Digest,
			DiffID: pulled.Image.Layers[0].DiffID, Size: pulled.Image.Layers[0].Size}}) {
			w.Errorf("%s: saved the layers %+v, pulled %+v", format, pulled.Image.Layers, again.Image.Layers)
		}
		if format == engine.SaveDocker && again.Image.Digest != pulled.Image.Digest {
			w.Errorf("the configuration is %s, saved it is %s", pulled.Image.Digest, again.Image.Digest)
		}
		var one, two bytes.Buffer
		w.must("saving", write(&one))
		w.must("saving", write(&two))
		file, err := os.ReadFile(format + ".tar")
		if err != nil || one.Len() == 0 || !bytes.Equal(one.Bytes(), two.Bytes()) || !bytes.Equal(one.Bytes(), file) {
			w.Errorf("%s: the same image gives other bytes (%v)", format, err)
		}
	}
	checkBadSaves(w, pulled.Image.Layers[0].DiffID)
	w.steps = nil // an answer that is an archive has no steps beside it
}

// checkSavedNames: an image has the names that it was asked for by, and is saved once.
func checkSavedNames(w *world, pulled engine.Pulled) {
	_, err := w.verbs.PullImage(w.Context(), "docker-archive:motd.tar", engine.PullOptions{Name: "Other", Size: 128 << 20})
	w.must("giving it another name", err)
	for want, queries := range map[string][]string{
		`"RepoTags":["local/motd:1"]`: {"motd:1", "local/motd:1", pulled.Image.ID}, // what is asked for twice is there once
		`"RepoTags":null`:             {pulled.Image.ID[:12], "Other"},             // and what docker does not take is left out
	} {
		var archive bytes.Buffer
		w.must("saving", w.verbs.SaveImages(w.Context(), queries, engine.SaveDocker, &archive))
		if got := archive.String(); strings.Count(got, want) != 1 || strings.Count(got, "hello <&>") != 1 {
			w.Errorf("%q saved: want %s and the layer, both once", queries, want)
		}
	}
}

// failingWriter takes some bytes and fails.
type failingWriter struct {
	left int
	err  error
}

func (f *failingWriter) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, f.err
	}
	return len(b), nil
}

// checkBadSaves: a save that fails says why, and leaves nothing.
func checkBadSaves(w *world, diffID string) {
	ctx := w.Context()
	save := func(format string, images ...string) error {
		return engine.WriteFile("bad.tar", func(to io.Writer) error { return w.verbs.SaveImages(ctx, images, format, to) })
	}
	w.fails("saving what is not there", save(engine.SaveDocker, "motd:1", "nothing"), fault.NotFound, "nothing")
	w.fails("saving in no format", save("cpio", "motd:1"), fault.Usage, "cpio", "oci-archive")
	full := errors.New("no room")
	if err := w.verbs.SaveImages(ctx, []string{"motd:1"}, engine.SaveDocker, &failingWriter{1000, full}); !errors.Is(err, full) {
		w.Errorf("saving to what fails: %v, want its error", err)
	}
	layer := filepath.Join(w.home, "layers", "sha256", strings.TrimPrefix(diffID, "sha256:"))
	text, err := os.ReadFile(layer)
	w.must("reading the layer", err)
	w.must("damaging the layer", os.WriteFile(layer, append([]byte("x"), text[1:]...), 0o600))
	w.fails("saving a damaged layer", save(engine.SaveDocker, "motd:1"), fault.Corrupt, diffID, "try again")
	w.must("saving again, with the layer fetched", save(engine.SaveDocker, "motd:1"))
	w.must("forgetting a layer", os.Remove(layer))
	w.must("forgetting the archive", errors.Join(os.Remove("bad.tar"), os.Remove("motd.tar")))
	w.fails("saving without the source", save(engine.SaveDocker, "motd:1"), fault.NotFound, "no longer in the layer store", "motd.tar")
	if left, err := filepath.Glob("bad.tar*"); err != nil || len(left) > 0 {
		w.Errorf("saves that failed have left %q (%v)", left, err)
	}
}

// endless is an input without an end.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'y'
	}
	return len(b), nil
}

// checkInput: the standard input is read where the client is.
func checkInput(w *world) {
	ctx := w.Context()
	saved, err := os.ReadFile(w.archive("motd.tar"))
	w.must("reading the archive", err)
	root := tarOf(w.T, map[string]string{"etc/passwd": "root:x:0:0::/:/bin/sh\n", "large": strings.Repeat("large", 1<<20)})
	for _, c := range []struct {
		reference, name string
		input           []byte
	}{{"docker-archive:-", "local/motd:1", saved}, {"tar:-", "stdin:latest", root}} {
		pulled, err := w.verbs.PullImage(ctx, c.reference, engine.PullOptions{Input: bytes.NewReader(c.input), Size: 128 << 20})
		w.must("pulling "+c.reference, err)
		w.gave("pulled", pulled)
		if pulled.Name != c.name || pulled.Image.Reference != c.reference {
			w.Errorf("pulled %+v, want the name %q and the reference %q", pulled, c.name, c.reference)
		}
	}
	for _, c := range []struct {
		what  string
		input io.Reader
		name  string
		kind  fault.Kind
		word  string
	}{
		{"nothing", nil, "x", fault.Usage, "no standard input"},
		{"emptiness", strings.NewReader(""), "x", fault.Unsupported, "empty"},
		{"half a tar", bytes.NewReader(root[:1<<20]), "x", fault.Corrupt, ""},
		{"text", strings.NewReader(strings.Repeat("text ", 1<<20)), "x", fault.Unsupported, "no tar"},
		{"an archive of images", bytes.NewReader(saved), "x", fault.Unsupported, "docker-archive:FILE"},
		{"what has no end under a bad name", endless{}, "a b", fault.Usage, "a b"},
		{"what has no end and is no tar", endless{}, "x", fault.Unsupported, "no tar"},
	} {
		_, err := w.verbs.PullImage(ctx, "tar:-", engine.PullOptions{Name: c.name, Input: c.input, Size: 128 << 20})
		w.fails("pulling "+c.what, err, c.kind, c.word)
	}
	broken := io.MultiReader(bytes.NewReader(root[:1000]), iotest.ErrReader(errors.New("gone wrong")))
	_, err = w.verbs.PullImage(ctx, "tar:-", engine.PullOptions{Input: broken})
	if err == nil || !strings.Contains(err.Error(), "reading the standard input") || !strings.Contains(err.Error(), "gone wrong") {
		w.Errorf("pulling what cannot be read: %v, want what went wrong", err)
	}
}

func checkKernels(w *world) {
	ctx := w.Context()
	kernels, err := w.verbs.ListKernels(ctx)
	if err != nil || len(kernels) > 0 {
		w.Errorf("a new home has the kernels %v (%v)", kernels, err)
	}
	_, err = w.verbs.ImportKernel(ctx, "", engine.KernelSource{})
	w.fails("importing nothing", err, fault.Usage, "exactly one source")
	_, err = w.verbs.ImportKernel(ctx, "", engine.KernelSource{FromHost: true, Debs: []string{"/x"}})
	w.fails("importing two", err, fault.Usage, "exactly one source")
	_, err = w.verbs.ImportKernel(ctx, "", engine.KernelSource{Debs: []string{"/no/such.deb"}})
	w.fails("importing a file that is not there", err, fault.NotFound, "/no/such.deb")
	_, err = w.verbs.InspectKernel(ctx, "none")
	w.fails("inspecting what is not there", err, fault.NotFound, "none")
	w.fails("removing what is not there", w.verbs.RemoveKernel(ctx, "none"), fault.NotFound, "none")
}

func checkVMs(w *world) {
	ctx := w.Context()
	w.Chdir(w.dir)
	w.vmlinuz("vmlinuz")
	imported, err := w.verbs.ImportKernel(ctx, "linux", engine.KernelSource{Vmlinuz: "vmlinuz"})
	w.must("importing the kernel", err)
	found, err := w.verbs.InspectKernel(ctx, "linux")
	w.must("inspecting the kernel", err)
	if imported.Version == "" || imported.Version != found.Version || filepath.Base(found.Source) != "vmlinuz" {
		w.Errorf("imported %+v, found %+v", imported, found)
	}
	archive := "docker-archive:" + w.archive("motd.tar")
	options := engine.DefaultVMOptions()
	options.Image, options.Name, options.Env, options.Memory = archive, "web", []string{"A=b"}, 128<<20
	options.Pull, options.Ports, options.WorkDir = engine.PullMissing, []string{"8080:80"}, "/srv"
	options.Args, options.Hostname = []string{"one", "<two>"}, "example.org"
	made, err := w.verbs.CreateVM(ctx, options)
	w.must("making a VM", err)
	made.Config.Dir = "" // is hidden by the VM's directory in JSON
	w.gave("made", made)
	if made.State != engine.StateCreated || made.Workload == nil || !slices.Equal(made.Workload.Argv, options.Args) || made.MemoryMiB != 128 {
		w.Errorf("made %+v", made)
	}
	_, err = w.verbs.CreateVM(ctx, options)
	w.fails("making it again", err, fault.Conflict, "web")
	w.fails("removing the kernel twice", errors.Join(w.verbs.RemoveKernel(ctx, "linux"), w.verbs.RemoveKernel(ctx, "linux")), fault.NotFound)
	_, err = w.verbs.RemoveImage(ctx, "motd:1")
	w.fails("removing the image of a VM", err, fault.Conflict, "web")
	w.fails("starting without a kernel", w.verbs.StartVM(ctx, "web"), fault.NotFound)
}

// checkStopped: what a VM that does not run does, and does not.
func checkStopped(w *world) {
	ctx := w.Context()
	w.published("idle")
	w.must("stopping", w.verbs.StopVM(ctx, "idle", time.Second))
	w.fails("killing", w.verbs.KillVM(ctx, "idle"), fault.NotRunning, "idle")
	w.fails("a signal", w.verbs.SignalVM(ctx, "idle", syscall.SIGHUP), fault.NotRunning, "idle")
	_, err := w.verbs.WaitVM(ctx, "idle")
	w.fails("waiting", err, fault.NotRunning, "never run")
	_, err = w.verbs.Exec(ctx, "idle", execOptions(nil, nil, "true"))
	w.fails("a command", err, fault.NotRunning, "idle")
	_, err = w.verbs.ExecDetached(ctx, "idle", exec.Command{Argv: []string{"true"}})
	w.fails("a detached command", err, fault.NotRunning, "idle")
	_, err = w.verbs.Stream(ctx, "idle")
	w.fails("a stream", err, fault.NotRunning, "idle")
	_, err = w.verbs.AddPorts(ctx, "idle", []string{"80"})
	w.fails("adding ports", err, fault.NotRunning, "idle")
	_, err = w.verbs.RemovePorts(ctx, "idle", []string{"80"})
	w.fails("removing ports", err, fault.NotRunning, "idle")
	ports, err := w.verbs.Ports(ctx, "idle")
	w.must("listing ports", err)
	w.gave("ports", ports)
	stats, err := w.verbs.Stats(ctx, nil)
	w.must("figures of all", err)
	w.gave("stats", stats)
	_, err = w.verbs.Stats(ctx, []string{"idle"})
	w.fails("figures", err, fault.NotRunning, "idle")
	vms, err := w.verbs.ListVMs(ctx)
	w.must("listing", err)
	w.gave("VMs", vms)
	w.published("second")
	removed, err := w.verbs.PruneVMs(ctx)
	if err != nil || !slices.Equal(removed, []string{"idle", "second"}) {
		w.Errorf("pruned %q (%v)", removed, err)
	}
}

// checkUnknown: names that no VM has, some of which mean something in a path.
func checkUnknown(w *world) {
	ctx := w.Context()
	w.published("web")
	_, err := w.verbs.FindVM(ctx, "wep")
	w.fails("a name that is nearly right", err, fault.NotFound, "did you mean web?")
	for _, name := range []string{"nothing", "..", ".", "a/b", "a b", "%2F", "ä?x=y#z", "prune"} {
		_, err := w.verbs.FindVM(ctx, name)
		w.fails("finding "+name, err, fault.NotFound)
		for what, err := range map[string]error{
			"starting": w.verbs.StartVM(ctx, name), "stopping": w.verbs.StopVM(ctx, name, time.Second),
			"restarting": w.verbs.RestartVM(ctx, name, time.Second), "killing": w.verbs.KillVM(ctx, name),
			"removing": w.verbs.RemoveVM(ctx, name, false), "removing by force": w.verbs.RemoveVM(ctx, name, true),
			"logs": w.verbs.Logs(ctx, name, engine.LogOptions{Tail: -1}, &bytes.Buffer{}, &bytes.Buffer{}),
		} {
			if fault.KindOf(err) != fault.NotFound {
				w.Errorf("%s %q: got %v, want an error of kind not found", what, name, err)
			}
		}
	}
	vms, err := w.verbs.ListVMs(ctx)
	if err != nil || len(vms) != 1 {
		w.Errorf("of one VM are left %v (%v)", vms, err)
	}
}

// checkBroken: a VM whose configuration cannot be read does not hide the others.
func checkBroken(w *world) {
	ctx := w.Context()
	w.published("good")
	bad := w.published("bad")
	w.must("spoiling a VM", os.WriteFile(bad.Path(instance.ConfigFile), []byte("{"), 0o600))
	vms, err := w.verbs.ListVMs(ctx)
	w.fails("listing", err, fault.Corrupt, "bad")
	if len(vms) != 1 || vms[0].Name != "good" {
		w.Errorf("beside a broken VM are listed %v", vms)
	}
	w.fails("removing", w.verbs.RemoveVM(ctx, "bad", false), fault.Corrupt, "bad")
	w.must("removing by force", w.verbs.RemoveVM(ctx, "bad", true))
	vms, err = w.verbs.ListVMs(ctx)
	if err != nil || len(vms) != 1 {
		w.Errorf("once the broken VM is gone: %v (%v)", vms, err)
	}
}

func execOptions(stdin, stdout *bytes.Buffer, argv ...string) engine.ExecOptions {
	options := engine.ExecOptions{Command: exec.Command{Argv: argv}}
	options.Stdout, options.Stderr = stdout, stdout
	if stdin != nil {
		options.Streams.Stdin = stdin
	}
	options.Started = func() error { return nil }
	return options
}

func checkCommands(w *world) {
	ctx := w.Context()
	w.runs("web")
	large := strings.Repeat("all work and no play\n", 100_000)
	for _, c := range []struct {
		name, script, stdin, want string
		code                      int
	}{
		{name: "output", script: "echo hello", want: "hello\n"},
		{name: "both outputs", script: "printf a; printf a >&2", want: "aa"}, // in which order, no pipe says
		{name: "exit code", script: "exit 7", code: 7},
		{name: "signal", script: "kill -TERM $$", code: 143},
		{name: "input", script: "cat", stdin: "some\x00bytes\xff", want: "some\x00bytes\xff"},
		{name: "much", script: "cat", stdin: large, want: large},
		{name: "input that is not read", script: "exit 3", stdin: large, code: 3},
		{name: "environment of the VM", script: "echo $OF_VM", want: "yes\n"},
	} {
		var out bytes.Buffer
		code, err := w.verbs.Exec(ctx, "web", execOptions(bytes.NewBufferString(c.stdin), &out, "/bin/sh", "-c", c.script))
		if err != nil || code != c.code || out.String() != c.want {
			w.Errorf("%s: exit code %d (%v) and %.100q, want %d and %.100q", c.name, code, err, out.String(), c.code, c.want)
		}
	}
	code, err := w.verbs.Exec(ctx, "web", execOptions(nil, &bytes.Buffer{}, "/no/such/program"))
	var refused *frame.Refusal
	if code != exec.CodeNotFound || !errors.As(err, &refused) {
		w.Errorf("a program that is not there: exit code %d, %v", code, err)
	}
	w.fails("a program that is not there", err, fault.Failure, "/no/such/program")
	options := execOptions(nil, &bytes.Buffer{}, "/bin/sh", "-c", "stty size; exit 5")
	options.Streams.TTY = &exec.Size{Rows: 12, Columns: 34}
	code, err = w.verbs.Exec(ctx, "web", options)
	if err != nil || code != 5 || !strings.Contains(options.Stdout.(*bytes.Buffer).String(), "12 34") {
		w.Errorf("on a terminal: exit code %d (%v), %q", code, err, options.Stdout)
	}
}

func checkDetached(w *world) {
	w.runs("web")
	mark := filepath.Join(w.dir, "mark")
	pid, err := w.verbs.ExecDetached(w.Context(), "web", exec.Command{Argv: []string{"/bin/sh", "-c", "echo $$ >" + mark}})
	if err != nil || pid <= 0 {
		w.Errorf("got the process id %d (%v)", pid, err)
	}
	eventually(w.T, "the command leaves its mark", func() bool {
		text, err := os.ReadFile(mark)
		return err == nil && len(text) > 0
	})
	_, err = w.verbs.ExecDetached(w.Context(), "web", exec.Command{Argv: []string{"/no/such/program"}})
	if coded := (codedError{}); !errors.As(startOrRunError(err), &coded) || coded.code != exec.CodeNotFound {
		w.Errorf("a program that is not there: %v, which has not docker's exit code", err)
	}
	w.fails("a program that is not there", err, fault.Failure, "/no/such/program")
}

// eventually waits for something that happens soon.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); !happened(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("within 10 seconds it does not come true that %s", what)
		}
	}
}

// checkStream: a stream is the agent's, in both directions, with deadlines.
func checkStream(w *world) {
	w.runs("web")
	stream, err := w.verbs.Stream(w.Context(), "web")
	w.must("opening a stream", err)
	info, err := exec.Hello(w.Context(), stream)
	w.must("greeting the agent", err)
	w.gave("info", info)
	stream, err = w.verbs.Stream(w.Context(), "web")
	w.must("opening a stream", err)
	defer func() { _ = stream.Close() }()
	w.must("setting a deadline", stream.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		w.Errorf("reading from an agent that says nothing: %v, want the deadline's error", err)
	}
}

func checkLogs(w *world) {
	ctx := w.Context()
	vm := w.runs("web")
	for _, piece := range []string{"one\n", "two <&>\n", "three \xff\n"} {
		w.must("logging", vm.log.Write(output.Stdout, []byte(piece)))
	}
	w.must("logging", vm.log.Write(output.Stderr, []byte("oops\n")))
	w.must("printing on the console", os.WriteFile(vm.Path(instance.ConsoleLog), []byte("booting\nbooted\n"), 0o600))
	for _, c := range []struct {
		name           string
		options        engine.LogOptions
		stdout, stderr string
	}{
		{"all", engine.LogOptions{Tail: -1}, "one\ntwo <&>\nthree \xff\n", "oops\n"},
		{"nothing", engine.LogOptions{Tail: 0}, "", ""},
		{"the last two", engine.LogOptions{Tail: 2}, "three \xff\n", "oops\n"},
		{"of the future", engine.LogOptions{Tail: -1, Since: time.Now().Add(time.Hour)}, "", ""},
		{"of the past", engine.LogOptions{Tail: 1, Since: time.Now().Add(-time.Hour)}, "", "oops\n"},
		{"console", engine.LogOptions{Tail: 1, Console: true}, "booted\n", ""},
	} {
		var stdout, stderr bytes.Buffer
		err := w.verbs.Logs(ctx, "web", c.options, &stdout, &stderr)
		if err != nil || stdout.String() != c.stdout || stderr.String() != c.stderr {
			w.Errorf("%s: %q and %q (%v), want %q and %q", c.name, &stdout, &stderr, err, c.stdout, c.stderr)
		}
	}
	err := w.verbs.Logs(ctx, "web", engine.LogOptions{Console: true, Since: time.Unix(1, 0)}, &bytes.Buffer{}, &bytes.Buffer{})
	w.fails("a console by time", err, fault.Usage)
	checkFollow(w, vm)
}

// checkFollow: what comes is shown, until the VM ends.
func checkFollow(w *world, vm *standIn) {
	read, write, err := os.Pipe()
	w.must("making a pipe", err)
	followed := make(chan error, 1)
	go func() {
		followed <- w.verbs.Logs(w.Context(), "web", engine.LogOptions{Tail: 1, Follow: true}, write, write)
		_ = write.Close()
	}()
	for n, piece := range []string{"oops\n", "four\n", "five\n"} {
		if n > 0 { // the first is there
			w.must("logging", vm.log.Write(output.Stdout, []byte(piece)))
		}
		got := make([]byte, len(piece))
		_ = read.SetReadDeadline(time.Now().Add(30 * time.Second))
		if n, err := read.Read(got); err != nil || string(got[:n]) != piece {
			w.Fatalf("following: read %q (%v), want %q", got[:n], err, piece)
		}
	}
	vm.end()
	if err := <-followed; err != nil {
		w.Errorf("following to the end of the VM: %v", err)
	}
}

func checkDoctor(w *world) {
	checks, err := w.verbs.Doctor(w.Context())
	w.must("checking", err)
	var names []string
	for _, check := range checks {
		names = append(names, check.Name)
		if check.State != engine.Pass && check.State != engine.Warn && check.State != engine.Fail {
			w.Errorf("the check %+v has no state", check)
		}
	}
	w.gave("checks", names)
}

// checkCancelled: whoever cancels gets their own reason back, at once.
func checkCancelled(w *world) {
	vm := w.runs("web")
	reason := errors.New("enough of it")
	archive := "docker-archive:" + w.archive("motd.tar")
	for name, work := range map[string]func(ctx context.Context) error{
		"pull": func(ctx context.Context) error {
			_, err := w.verbs.PullImage(ctx, archive, engine.PullOptions{})
			return err
		},
		"logs": func(ctx context.Context) error {
			return w.verbs.Logs(ctx, "web", engine.LogOptions{Tail: -1, Follow: true}, &bytes.Buffer{}, &bytes.Buffer{})
		},
		"command": func(ctx context.Context) error {
			_, err := w.verbs.Exec(ctx, "web", execOptions(nil, &bytes.Buffer{}, "/bin/sleep", "1000"))
			return err
		},
	} {
		ctx, cancel := context.WithCancelCause(w.Context())
		if name == "logs" || name == "command" {
			time.AfterFunc(100*time.Millisecond, func() { cancel(reason) })
		} else {
			cancel(reason)
		}
		begun := time.Now()
		if err := work(ctx); !errors.Is(err, reason) || time.Since(begun) > 30*time.Second {
			w.Errorf("%s: after %v: %v, want the reason of the cancellation", name, time.Since(begun), err)
		}
	}
	vm.end()
	images, err := w.verbs.ListImages(w.Context())
	if err != nil || len(images) > 0 {
		w.Errorf("a pull that was cancelled has left %v (%v)", images, err)
	}
}

func runOptions(image string) engine.RunOptions {
	options := engine.RunOptions{VMOptions: engine.DefaultVMOptions(), Created: func(string) {}}
	options.Image = image
	options.Stdout, options.Stderr = &bytes.Buffer{}, &bytes.Buffer{}
	options.Started = func() error { return nil }
	return options
}

// checkBadRuns: a run that cannot begin says why, attached or not.
func checkBadRuns(w *world) {
	for _, detach := range []bool{false, true} {
		options := runOptions("nothing")
		options.Detach = detach
		_, err := w.verbs.Run(w.Context(), options)
		w.fails("without a kernel", err, fault.NotFound, "kernel")
		options.CPUs = 0
		_, err = w.verbs.Run(w.Context(), options)
		w.fails("without a CPU", err, fault.Usage, "--cpus 0")
		options = runOptions("nothing")
		options.Detach, options.Name = detach, "../up"
		_, err = w.verbs.Run(w.Context(), options)
		w.fails("with a bad name", err, fault.Usage, "../up")
		options.Name, options.Memory = "", 1<<60
		_, err = w.verbs.Run(w.Context(), options)
		if fault.KindOf(err) != fault.NoSpace || !strings.Contains(err.Error(), "1EiB") { // and what there is, which changes
			w.Errorf("with more memory than there is: %v", err)
		}
	}
	vms, err := w.verbs.ListVMs(w.Context())
	if err != nil || len(vms) > 0 {
		w.Errorf("runs that did not begin have left %v (%v)", vms, err)
	}
}
