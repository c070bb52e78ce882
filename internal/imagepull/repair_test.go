package imagepull

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/oci"
	"github.com/banger-vm/banger/internal/rootfs"
)

// tarWith returns a tar with one file.
func tarWith(t *testing.T, name, content string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))})
	_, err2 := io.WriteString(w, content)
	if err := errors.Join(err, err2, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// imageOf is an image of layers that are not compressed. opened counts how often each of them is opened.
func imageOf(layers ...[]byte) (image *oci.Image, opened []int) {
	image = &oci.Image{Reference: "registry.example/test:v1"}
	opened = make([]int, len(layers))
	for i, content := range layers {
		id := digest.FromBytes(content).String()
		image.Blobs = append(image.Blobs, oci.Blob{
			Digest: id, DiffID: id, Size: int64(len(content)),
			Open: func(context.Context) (io.ReadCloser, error) {
				opened[i]++
				return io.NopCloser(bytes.NewReader(content)), nil
			},
		})
	}
	return image, opened
}

func (b subject) pull(t *testing.T, store *layer.Store, image *oci.Image) (string, error) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "rootfs.ext4")
	p := &Puller{Builder: b, Layers: store, Steps: silent()}
	_, err := p.Pull(t.Context(), Request{
		Image: image, WorkDir: t.TempDir(), OutFile: out,
		Size: func(rootfs.Usage) (int64, error) { return 64 << 20, nil },
	})
	return out, err
}

// TestDamagedLayerIsFetchedAgain: a layer whose file changed since it was fetched, wherever, does not reach an image, and
// costs nothing but fetching it again. The other layer stays.
func TestDamagedLayerIsFetchedAgain(t *testing.T) {
	content := strings.Repeat("contents of a layer\n", 100_000)
	damaged, intact := tarWith(t, "damaged", content), tarWith(t, "intact", content)
	overwrite := func(path string, at int64, with []byte) error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(with, at)
		return errors.Join(err, f.Close())
	}
	damages := map[string]func(path string) error{
		"a bit":         func(path string) error { return overwrite(path, 1_000_000, []byte{'c' ^ 1}) },
		"a lost block":  func(path string) error { return overwrite(path, 1<<20, make([]byte, 4096)) },
		"all lost":      func(path string) error { return overwrite(path, 0, make([]byte, len(damaged))) },
		"the last byte": func(path string) error { return overwrite(path, 512+int64(len(content))-1, []byte{0}) },
		"cut":           func(path string) error { return os.Truncate(path, 1_000_000) },
	}
	eachBuilder(t, func(t *testing.T, b subject) {
		for name, damage := range damages {
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				store := layer.NewStore(dir)
				image, opened := imageOf(damaged, intact)
				if _, err := b.pull(t, store, image); err != nil {
					t.Fatal(err)
				}
				if err := damage(filepath.Join(dir, "sha256", digest.FromBytes(damaged).Encoded())); err != nil {
					t.Fatal(err)
				}
				disk, err := b.pull(t, store, image)
				if err != nil {
					t.Fatalf("pulling with a damaged layer: %v", err)
				}
				mustBeClean(t, disk)
				for _, file := range []string{"/damaged", "/intact"} {
					out := filepath.Join(t.TempDir(), "file")
					run(t, "debugfs", "-R", "dump "+file+" "+out, disk)
					if got, err := os.ReadFile(out); err != nil || string(got) != content {
						t.Errorf("%s has %d bytes (%v) that are not what its layer has", file, len(got), err)
					}
				}
				if opened[0] != 2 || opened[1] != 1 {
					t.Errorf("the layers were opened %v times, want the damaged one twice and the other once", opened)
				}
			})
		}
	})
}

// TestDiskThatLoses: when what is written is not what is read, time after time, the pull ends with a fault that says so.
func TestDiskThatLoses(t *testing.T) {
	content := strings.Repeat("contents of a layer\n", 1000)
	plain := tarWith(t, "file", content)
	eachBuilder(t, func(t *testing.T, b subject) {
		dir := t.TempDir()
		path := filepath.Join(dir, "sha256", digest.FromBytes(plain).Encoded())
		image, opened := imageOf(plain)
		p := &Puller{Builder: b, Layers: layer.NewStore(dir), Steps: silent()}
		p.Report = func(s Step) {
			if s.Name == "Flatten" && s.Done {
				_ = os.WriteFile(path, make([]byte, len(plain)), 0o600)
			}
		}
		out := filepath.Join(t.TempDir(), "rootfs.ext4")
		_, err := p.Pull(t.Context(), Request{
			Image: image, WorkDir: t.TempDir(), OutFile: out,
			Size: func(rootfs.Usage) (int64, error) { return 64 << 20, nil },
		})
		if fault.KindOf(err) != fault.Corrupt || !errors.Is(err, rootfs.ErrSum) || !strings.Contains(err.Error(), `"/file"`) {
			t.Errorf("got %v, want a fault of corruption that names the file", err)
		}
		if opened[0] != attempts {
			t.Errorf("the layer was opened %d times, want %d", opened[0], attempts)
		}
		if _, err := os.Stat(out); err == nil {
			t.Error("there is a disk")
		}
	})
}
