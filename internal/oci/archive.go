package oci

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/distribution/reference"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/fault"
)

// archive is the file that `docker save` writes: a tar with the images' files and a manifest.json that names them
// (moby, image/spec/v1.2.md). It may be compressed with gzip; it is then unpacked into a file without a name.
type archive struct {
	file    *os.File
	members map[string]member // by their cleaned names
}

// member is a file of the archive.
type member struct {
	offset int64
	size   int64
	link   string // the cleaned name of another member, whose contents this one has
}

// saved is an element of manifest.json.
type saved struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"` // the lowest first
}

const manifestName = "manifest.json"

// resolveArchive returns the image that FILE[:REF] names, or the only one.
func resolveArchive(ctx context.Context, fileAndRef string, opts Options) (image *Image, err error) {
	file, ref, err := splitPath(fileAndRef)
	if err != nil {
		return nil, err
	}
	full, err := pathReference(archivePrefix, file, ref)
	if err != nil {
		return nil, err
	}
	a, err := readArchive(ctx, file, opts.TempDir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = a.file.Close()
		}
	}()
	images, err := a.images()
	if err != nil {
		return nil, err
	}
	chosen, err := chooseSaved(images, file, ref)
	if err != nil {
		return nil, err
	}
	if image, err = a.image(chosen, opts.Platform); err != nil {
		return nil, err
	}
	image.Reference, image.Name = full, archiveName(chosen, file, ref)
	return image, nil
}

// archiveName names an image of an archive: as the user does, or else by the first name that docker saved with it, or
// else after the file.
func archiveName(chosen saved, file, ref string) string {
	for _, tag := range append([]string{ref}, chosen.RepoTags...) {
		if named, err := parseNamed(tag); err == nil { // "" and "@N" are no names
			return shortName(named)
		}
	}
	return fileName(file) + ":latest"
}

// chooseSaved returns the image with the name ref, or with the number N for "@N", as skopeo has it.
func chooseSaved(images []saved, file, ref string) (saved, error) {
	if ref == "" && len(images) == 1 {
		return images[0], nil
	}
	if number, ok := strings.CutPrefix(ref, "@"); ok {
		if n, err := strconv.Atoi(number); err == nil && n >= 0 && n < len(images) {
			return images[n], nil
		}
	}
	var tags []string
	for _, s := range images {
		for _, tag := range s.RepoTags {
			if ref != "" && sameName(tag, ref) {
				return s, nil
			}
			tags = append(tags, tag)
		}
	}
	if ref == "" && len(images) > 1 {
		err := fmt.Errorf("choosing the image: the archive has %d: %s", len(images), list(tags, "none has a name"))
		return saved{}, fault.New(fault.Usage, err, fmt.Sprintf("add a name or a number: %s%s:@0", archivePrefix, file))
	}
	err := fmt.Errorf("finding the image %q: the archive has %s", ref, list(tags, "no names"))
	return saved{}, fault.New(fault.NotFound, err, "")
}

func sameName(a, b string) bool {
	x, err1 := reference.ParseNormalizedNamed(a)
	y, err2 := reference.ParseNormalizedNamed(b)
	return err1 == nil && err2 == nil && reference.TagNameOnly(x).String() == reference.TagNameOnly(y).String()
}

// readArchive opens the file and finds its members.
func readArchive(ctx context.Context, name, tempDir string) (*archive, error) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, fmt.Errorf("opening the archive: %w", err), "")
	}
	if err != nil {
		return nil, fmt.Errorf("opening the archive: %w", err)
	}
	if info, err := file.Stat(); err == nil && !info.Mode().IsRegular() {
		_ = file.Close()
		err := fmt.Errorf("opening the archive: %q is no file", name)
		return nil, fault.New(fault.Unsupported, err, "for a directory use oci:DIR")
	}
	a, err := indexArchive(ctx, file, tempDir)
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return a, nil
}

// indexArchive takes the file over if there is no error.
func indexArchive(ctx context.Context, file *os.File, tempDir string) (*archive, error) {
	var magic [2]byte
	if _, err := file.ReadAt(magic[:], 0); err == nil && magic == [2]byte{0x1f, 0x8b} {
		unpacked, err := gunzip(ctx, file, tempDir)
		if err != nil {
			return nil, err
		}
		a := &archive{file: unpacked, members: make(map[string]member)}
		if err := a.index(ctx); err != nil {
			_ = unpacked.Close()
			return nil, err
		}
		return a, file.Close()
	}
	a := &archive{file: file, members: make(map[string]member)}
	return a, a.index(ctx)
}

// gunzip unpacks the file into one that disappears when it is closed, or when banger dies.
func gunzip(ctx context.Context, file *os.File, tempDir string) (*os.File, error) {
	source, err := gzip.NewReader(bufio.NewReaderSize(contextReader{ctx, file}, 1<<20))
	if err != nil {
		return nil, fault.New(fault.Corrupt, fmt.Errorf("unpacking the archive: %w", err), "")
	}
	unpacked, err := os.CreateTemp(tempDir, "banger-archive-")
	if err != nil {
		return nil, fmt.Errorf("unpacking the archive: %w", err)
	}
	_ = os.Remove(unpacked.Name())
	// A mebibyte of zeros is a kibibyte of gzip: the end of ctx has to be noticed on this side as well.
	n, err := io.Copy(unpacked, contextReader{ctx, source})
	if err == nil {
		_, err = unpacked.Seek(0, io.SeekStart)
	}
	if err == nil {
		return unpacked, nil
	}
	_ = unpacked.Close()
	err = fmt.Errorf("unpacking the archive after %d bytes: %w", n, err)
	switch {
	case ctx.Err() != nil:
		return nil, err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return nil, fault.New(fault.NoSpace, err, "free some space in "+tempDir+", or unpack the archive with gunzip elsewhere")
	}
	return nil, fault.New(fault.Corrupt, err, "the archive is incomplete or damaged")
}

// contextReader ends with ctx.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

// index finds the members. tar.Reader does not read ahead, so the file stands at each one's contents.
func (a *archive) index(ctx context.Context) error {
	r := tar.NewReader(a.file)
	for ctx.Err() == nil {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return a.damaged(err)
		}
		if err := a.add(h); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// damaged tells what is no archive at all from one that is broken.
func (a *archive) damaged(err error) error {
	info, statErr := a.file.Stat()
	short := statErr == nil && info.Size() < 512 // a tar's block
	if len(a.members) == 0 && (short || !errors.Is(err, io.ErrUnexpectedEOF)) {
		err := fmt.Errorf("reading the archive: it is no tar: %w", err)
		return fault.New(fault.Unsupported, err, "docker-archive: takes what `docker save` writes, also through gzip")
	}
	err = fmt.Errorf("reading the archive: %w", err)
	return fault.New(fault.Corrupt, err, "the archive is incomplete or damaged")
}

func (a *archive) add(h *tar.Header) error {
	offset, err := a.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("reading the archive: %w", err)
	}
	clean := path.Clean(h.Name)
	switch h.Typeflag {
	case tar.TypeReg:
		a.members[clean] = member{offset: offset, size: h.Size}
	case tar.TypeSymlink: // of layers that images share
		a.members[clean] = member{link: path.Join(path.Dir(clean), h.Linkname)}
	case tar.TypeLink:
		a.members[clean] = member{link: path.Clean(h.Linkname)}
	}
	return nil
}

// open returns a member's contents.
func (a *archive) open(name string) (*io.SectionReader, error) {
	clean := path.Clean(name)
	for range 8 {
		m, ok := a.members[clean]
		if !ok {
			break
		}
		if m.link == "" {
			return io.NewSectionReader(a.file, m.offset, m.size), nil
		}
		clean = m.link
	}
	err := fmt.Errorf("reading the archive: it has no file %q", name)
	return nil, fault.New(fault.Corrupt, err, "the archive is incomplete or damaged")
}

func (a *archive) images() ([]saved, error) {
	if _, ok := a.members[manifestName]; !ok {
		err := fmt.Errorf("reading the archive: it has no file %q", manifestName)
		hint := "docker-archive: takes what `docker save` writes"
		if _, ok := a.members["oci-layout"]; ok {
			hint = "this is an OCI archive: unpack it into a directory and use oci:DIR"
		}
		return nil, fault.New(fault.Unsupported, err, hint)
	}
	raw, err := a.readAll(manifestName)
	if err != nil {
		return nil, err
	}
	var images []saved
	if err := json.Unmarshal(raw, &images); err != nil {
		return nil, fault.New(fault.Corrupt, fmt.Errorf("reading the archive's %q: %w", manifestName, err), "")
	}
	if len(images) == 0 {
		return nil, fault.New(fault.NotFound, errors.New("reading the archive: it has no images"), "")
	}
	return images, nil
}

func (a *archive) readAll(name string) ([]byte, error) {
	r, err := a.open(name)
	if err != nil {
		return nil, err
	}
	raw, err := readSmall(r)
	if err == nil && int64(len(raw)) != r.Size() {
		err = fault.New(fault.Corrupt, io.ErrUnexpectedEOF, "the archive is incomplete")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the archive's %q: %w", name, err)
	}
	return raw, nil
}

func (a *archive) image(s saved, want Platform) (*Image, error) {
	config, err := a.readAll(s.Config)
	if err != nil {
		return nil, err
	}
	if err := checkConfigName(s.Config, config); err != nil {
		return nil, err
	}
	image := &Image{Digest: digest.FromBytes(config).String(), RawConfig: config, close: a.file.Close}
	if err := image.readConfig(want); err != nil {
		return nil, err
	}
	if err := image.checkCount(len(s.Layers)); err != nil {
		return nil, err
	}
	for n, layer := range s.Layers {
		contents, err := a.open(layer)
		if err != nil {
			return nil, err
		}
		image.Blobs = append(image.Blobs, Blob{
			DiffID: image.Config.RootFS.DiffIDs[n].String(), Size: contents.Size(),
			Open: func(ctx context.Context) (io.ReadCloser, error) {
				section := io.NewSectionReader(contents, 0, contents.Size()) // each reader has a position of its own
				return io.NopCloser(contextReader{ctx, section}), nil
			},
		})
	}
	return image, nil
}

// checkConfigName checks a configuration against the digest in its name: "<hex>.json", or "blobs/sha256/<hex>" since
// docker 25.
func checkConfigName(name string, config []byte) error {
	hex := strings.TrimSuffix(path.Base(name), ".json")
	want := digest.NewDigestFromEncoded(digest.SHA256, hex)
	if want.Validate() != nil {
		return nil // other tools use other names
	}
	if err := checkDigest(config, want); err != nil {
		return fmt.Errorf("reading the archive's configuration: %w", err)
	}
	return nil
}
