package files

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// TestPlaces: where a copy goes is what docker cp's documentation says, in both directions.
func TestPlaces(t *testing.T) {
	const setup = `mkdir -p dir/sub full/dir; echo f >file; echo 1 >dir/one; echo 2 >dir/sub/two; echo old >existing; chmod 600 existing
		echo old >full/file; ln -s full to-full; ln -s existing to-existing; ln -s missing to-missing; ln -s dir to-dir; ln -s file to-file
		ln -s to-to-missing loop; ln -s loop to-to-missing; mkfifo pipe; ln existing twin; ln -s nowhere/x to-nowhere`
	for _, c := range []struct {
		src, dest string
		options   Options
		want      string // lists the names that are new or changed; or an error
		reason    frame.Reason
	}{
		{src: "file", dest: "new", want: "new=f"},
		{src: "file", dest: "new/", want: "no such directory", reason: frame.NotFound},
		{src: "file", dest: "nowhere/new", want: "no such directory", reason: frame.NotFound},
		{src: "file", dest: "existing", want: "existing=f"},
		{src: "file", dest: "existing/", want: "not a directory", reason: frame.Conflict},
		{src: "file", dest: "existing/x", want: "not a directory", reason: frame.Conflict},
		{src: "file", dest: "full", want: "full/file=f"},
		{src: "file", dest: "full/", want: "full/file=f"},
		{src: "file", dest: "full/.", want: "full/file=f"},
		{src: "file", dest: "to-full", want: "full/file=f"},
		{src: "file", dest: "to-existing", want: "existing=f"},
		{src: "file", dest: "to-missing", want: "missing=f"},
		{src: "file", dest: "to-nowhere", want: "no such directory", reason: frame.NotFound},
		{src: "file", dest: "loop", want: "too many", reason: frame.Failed},
		{src: "file", dest: "pipe", want: "neither a file nor a directory", reason: frame.Conflict},
		{src: "file", dest: "full/dir/../file", want: "full/file=f"},
		{src: "file/", dest: "new", want: "not a directory", reason: frame.Conflict},
		{src: "file/.", dest: "new", want: "not a directory", reason: frame.Conflict},
		{src: "dir", dest: "new", want: "new/one=1 new/sub/two=2"},
		{src: "dir", dest: "new/", want: "new/one=1 new/sub/two=2"},
		{src: "dir/", dest: "new", want: "new/one=1 new/sub/two=2"},
		{src: "dir/.", dest: "new", want: "new/one=1 new/sub/two=2"},
		{src: "dir", dest: "nowhere/new", want: "no such directory", reason: frame.NotFound},
		{src: "dir", dest: "existing", want: "which a directory does not replace", reason: frame.Conflict},
		{src: "dir/.", dest: "existing", want: "which a directory does not replace", reason: frame.Conflict},
		{src: "dir", dest: "full", want: "full/dir/one=1 full/dir/sub/two=2"},
		{src: "dir/", dest: "full", want: "full/dir/one=1 full/dir/sub/two=2"},
		{src: "dir/.", dest: "full", want: "full/one=1 full/sub/two=2"},
		{src: "dir/.", dest: "to-full", want: "full/one=1 full/sub/two=2"},
		{src: "dir/sub/..", dest: "full", want: "full/dir/one=1 full/dir/sub/two=2"},
		{src: "dir", dest: "to-missing", want: "missing/one=1 missing/sub/two=2"},
		{src: "to-dir", dest: "new", want: "new->dir"},
		{src: "to-dir/", dest: "new", want: "new/one=1 new/sub/two=2"},
		{src: "to-dir/.", dest: "new", want: "new/one=1 new/sub/two=2"},
		{src: "to-dir/", dest: "full", want: "full/to-dir/one=1 full/to-dir/sub/two=2"},
		{src: "to-dir", dest: "full", want: "full/to-dir->dir"},
		{src: "to-dir", dest: "new", options: Options{Follow: true}, want: "new/one=1 new/sub/two=2"},
		{src: "to-dir", dest: "full", options: Options{Follow: true}, want: "full/to-dir/one=1 full/to-dir/sub/two=2"},
		{src: "to-file", dest: "full", want: "full/to-file->file"},
		{src: "to-file", dest: "full", options: Options{Follow: true}, want: "full/to-file=f"},
		{src: "to-file", dest: "existing", want: "existing->file"},
		{src: "to-missing", dest: "new", want: "new->missing"},
		{src: "to-missing", dest: "new", options: Options{Follow: true}, want: "no such file", reason: frame.NotFound},
		{src: "missing", dest: "new", want: "no such file", reason: frame.NotFound},
		{src: "nowhere/missing", dest: "new", want: "no such file", reason: frame.NotFound},
		{src: "file", dest: "full", options: Options{Into: true}, want: "full/file=f"},
		{src: "file", dest: "new", options: Options{Into: true}, want: "no such directory", reason: frame.NotFound},
		{src: "dir", dest: "new", options: Options{Into: true}, want: "no such directory", reason: frame.NotFound},
		{src: "file", dest: "existing", options: Options{Into: true}, want: "not a directory", reason: frame.Conflict},
		{src: "pipe", dest: "new", want: "new|"},
	} {
		for _, way := range []string{"in", "out"} {
			t.Run(fmt.Sprintf("%s %s to %s %v", way, c.src, c.dest, c.options), func(t *testing.T) {
				dir := t.TempDir()
				shell(t, dir, setup)
				before := listing(t, dir)
				copy := CopyIn
				if way == "out" {
					copy = CopyOut
				}
				_, err := copy(deadline(t), dial(t), dir+"/"+c.src, dir+"/"+c.dest, c.options)
				if c.reason != "" {
					checkRefused(t, err, c.want, c.reason)
					if after := listing(t, dir); strings.Join(after, " ") != strings.Join(before, " ") {
						t.Errorf("although the copy failed, %v became %v", before, after)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := strings.Join(fresh(before, listing(t, dir)), " "); got != c.want {
					t.Errorf("got %s, want %s", got, c.want)
				}
				if got := shell(t, dir, "cat twin"); got != "old\n" {
					t.Errorf("another name of the overwritten file has changed to %q", got)
				}
			})
		}
	}
}

func checkRefused(t *testing.T, err error, want string, reason frame.Reason) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("got the error %v, want one with %q", err, want)
	}
	if got := ReasonOf(err); got != reason {
		t.Errorf("the reason of %q is %q, want %q", err, got, reason)
	}
	if !strings.Contains(err.Error(), onHost) && !strings.Contains(err.Error(), inVM) {
		t.Errorf("the error does not say on which side: %q", err)
	}
}

// listing lists what is no directory, with what it has.
func listing(t *testing.T, dir string) []string {
	out := shell(t, dir, `find . -type f -printf '%P=' -exec cat {} \; -o -type l -printf '%P->%l\n' -o -type p -printf '%P|\n' | sort`)
	return strings.Split(strings.TrimSpace(out), "\n")
}

func fresh(before, after []string) []string {
	var list []string
	for _, line := range after {
		if !strings.Contains("\n"+strings.Join(before, "\n")+"\n", "\n"+line+"\n") {
			list = append(list, line)
		}
	}
	return list
}

// TestRelativePaths: a guest's path begins at its root directory; the host's at the working directory, where "." means
// what is in it.
func TestRelativePaths(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "mkdir here there; echo 1 >here/file; ln -s here link")
	t.Chdir(dir + "/here")
	for _, c := range []struct{ src, dest, want string }{
		{".", "there", "file"},
		{"./", "there", "file"},
		{"file", "there", "file"},
		{"../here", "there", "here\nhere/file"},
		{"..", "there", "WORK"},
	} {
		shell(t, dir, "rm -rf there; mkdir there")
		if _, err := CopyIn(deadline(t), dial(t), c.src, strings.TrimPrefix(dir, "/")+"/"+c.dest, Options{}); err != nil {
			t.Fatal(err)
		}
		want := strings.ReplaceAll(c.want, "WORK", filepath.Base(dir))
		if got := shell(t, dir, "cd there; find . -mindepth 1 -printf '%P\n' | sort | head -n 2"); !strings.HasPrefix(got, want) {
			t.Errorf("copying %q gave\n%s\nwant\n%s", c.src, got, want)
		}
	}
	if _, err := CopyOut(deadline(t), dial(t), dir+"/there", ".", Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/here/there"); err != nil {
		t.Error(err)
	}
}

// TestGuestPathsInMessages: a path of the guest is called what the user called it.
func TestGuestPathsInMessages(t *testing.T) {
	missing := t.TempDir() + "/missing"
	for _, given := range []string{missing, "//" + missing, missing[1:]} {
		_, err := CopyOut(deadline(t), dial(t), given, t.TempDir(), Options{})
		if want := fmt.Sprintf("reading %q in the VM", missing); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got the error %v, want one with %s", given, err, want)
		}
		_, err = CopyIn(deadline(t), dial(t), "/dev/null", given+"/x/", Options{})
		if want := fmt.Sprintf("writing %q in the VM", missing+"/x/"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got the error %v, want one with %s", given, err, want)
		}
	}
}
