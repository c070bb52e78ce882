// Package puller has banger's pull of an image from a registry and its rivals, each from nothing to the end.
package puller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Puller pulls with banger.
type Puller struct {
	Program string   // banger's path
	Dir     string   // a directory for homes and for what the rivals make
	Env     []string // KEY=VALUE, added to the environment
	Memory  int64    // greatest resident memory of banger so far, in bytes
}

func (p *Puller) home() string { return filepath.Join(p.Dir, "home") }

// Cold pulls into an empty home.
func (p *Puller) Cold(ctx context.Context, image string) (time.Duration, error) {
	return p.fresh(func() error { return p.Pull(ctx, image) })
}

// Prepare makes a home that has an image, for the pull of another that is timed.
func (p *Puller) Prepare(ctx context.Context, image string) error {
	return errors.Join(os.RemoveAll(p.home()), p.Pull(ctx, image))
}

// Timed times a pull into the home as it is.
func (p *Puller) Timed(ctx context.Context, image string) (time.Duration, error) {
	unix.Sync()
	start := time.Now()
	err := p.Pull(ctx, image)
	return time.Since(start), err
}

// Pull pulls an image.
func (p *Puller) Pull(ctx context.Context, image string) error {
	cmd := exec.CommandContext(ctx, p.Program, "image", "pull", image)
	cmd.Env = append(append(os.Environ(), "BANGER_HOME="+p.home()), p.Env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(out))
	}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		p.Memory = max(p.Memory, usage.Maxrss<<10)
	}
	return nil
}

// fresh times what begins with nothing: what earlier runs made is gone, and all else is on the disk.
func (p *Puller) fresh(do func() error) (time.Duration, error) {
	if err := errors.Join(os.RemoveAll(p.home()), os.RemoveAll(p.out())); err != nil {
		return 0, err
	}
	if err := os.Mkdir(p.out(), 0o700); err != nil {
		return 0, err
	}
	unix.Sync()
	start := time.Now()
	err := do()
	return time.Since(start), err
}

func (p *Puller) out() string { return filepath.Join(p.Dir, "out") }

// Decompress has a command write what it makes of each layer to a file, all at the same time. The layer is its last argument.
func (p *Puller) Decompress(ctx context.Context, layers []string, words ...string) (time.Duration, error) {
	return p.fresh(func() error {
		var group errgroup.Group
		for i, layer := range layers {
			group.Go(func() error {
				return p.decompress(ctx, fmt.Sprint(i), append(words[1:len(words):len(words)], layer), words[0])
			})
		}
		return group.Wait()
	})
}

func (p *Puller) decompress(ctx context.Context, name string, args []string, program string) error {
	file, err := os.Create(filepath.Join(p.out(), name))
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = file, os.Stderr
	return errors.Join(cmd.Run(), file.Close())
}

// Rivals pulls by skopeo, umoci and mkfs.ext4 -d, which needs to be root for the owners of the files, or fakeroot.
func (p *Puller) Rivals(ctx context.Context, image string) (time.Duration, error) {
	layout, bundle, disk := filepath.Join(p.out(), "oci"), filepath.Join(p.out(), "bundle"), filepath.Join(p.out(), "disk.ext4")
	commands := [][]string{
		{"skopeo", "copy", "--quiet", "--src-tls-verify=false", "docker://" + image, "oci:" + layout + ":it"},
		{"umoci", "unpack", "--image", layout + ":it", bundle},
		{"truncate", "-s", "2560M", disk},
		{"mkfs.ext4", "-q", "-F", "-d", filepath.Join(bundle, "rootfs"), disk},
	}
	if os.Getuid() != 0 {
		commands[1] = append(commands[1], "--rootless")
		commands[3] = append([]string{"fakeroot"}, commands[3]...)
	}
	return p.fresh(func() error {
		for _, words := range commands {
			if out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, bytes.TrimSpace(out))
			}
		}
		return nil
	})
}
