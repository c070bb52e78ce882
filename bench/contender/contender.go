// Package contender has banger's writer of ext4 and its rivals, each as one function that makes a file from the same
// input, measured. A process runs one contender once, so that the peak of its memory is that contender's.
package contender

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// Name is one of the contenders.
type Name string

// The contenders.
const (
	// Native is banger's own writer, from the layers in the layer store.
	Native Name = "native"
	// Mkfs is mkfs.ext4 -d from the tree that is extracted already.
	Mkfs Name = "mkfs"
	// Builder is banger's reference: the tree staged, mkfs.ext4 -d, owners by debugfs.
	Builder Name = "builder"
	// Tar2ext4 is that package of microsoft/hcsshim, from the flat tar.
	Tar2ext4 Name = "tar2ext4"
)

// Job says what to make and of what.
type Job struct {
	// Input is a directory with the same tree in three forms: the OCI layout oci, the tar rootfs.tar and the directory
	// tree, of which tree.owners is fakeroot's record if fakeroot made it.
	Input string
	Store string // layer store, a directory that has the layers of oci: see Fill
	Out   string // the file to make, which must not exist; Builder leaves a directory staged-* beside it
	Size  int64  // of the file system, in bytes
	// NoSync has mkfs.ext4 believe that it synced the file, so that it can be compared with who does not. It takes
	// libeatmydata.
	NoSync bool
}

// Run measures one run of a contender. The inputs are in the page cache before the clock starts.
func Run(ctx context.Context, name Name, job Job) (Measurement, error) {
	contenders := map[Name]func(context.Context, Job) (Measurement, error){
		Native: native, Mkfs: mkfs, Builder: builder, Tar2ext4: tarToExt4,
	}
	run, ok := contenders[name]
	if !ok {
		return Measurement{}, fmt.Errorf("running %q: there is no such contender", name)
	}
	m, err := run(ctx, job)
	if err != nil {
		return Measurement{}, fmt.Errorf("running %s on %q: %w", name, job.Input, err)
	}
	return m, nil
}

// create makes the output, an empty file.
func (j Job) create() (*os.File, error) {
	return os.OpenFile(j.Out, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

func (j Job) layout() string { return "oci:" + filepath.Join(j.Input, "oci") }
func (j Job) tar() string    { return filepath.Join(j.Input, "rootfs.tar") }
func (j Job) tree() string   { return filepath.Join(j.Input, "tree") }
func (j Job) owners() string { return j.tree() + ".owners" }
