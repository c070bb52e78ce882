package openssh

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/fsync"
	"github.com/banger-vm/banger/internal/symlink"
)

// The files of OpenSSH's directory.
const (
	userFile = "config"      // the user's, ssh_config(5)
	ownFile  = "banger.conf" // ours
	// include has the user's file read ours. It has to come before the first Host and Match, or else it would be for
	// those hosts alone.
	include = "Include ~/.ssh/" + ownFile
	// fileMode is that of files that are not there yet.
	fileMode fs.FileMode = 0o600
)

// Install writes block to a file of OpenSSH's directory and has the user's configuration include it, in a line at its top.
// The rest of that file, its mode and its owner stay as they are; where it is a symbolic link, what that leads to is
// changed. A second call changes nothing. A directory that is missing is made.
func Install(dir, block string) (changed bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, fmt.Errorf("making the directory of OpenSSH's configuration: %w", err)
	}
	own := "# Kept up to date by: banger ssh-config --install\n" + block
	changed, err = replace(filepath.Join(dir, ownFile), func([]byte) []byte { return []byte(own) })
	if err != nil {
		return changed, err
	}
	included, err := replace(filepath.Join(dir, userFile), withInclude)
	return changed || included, err
}

// Uninstall takes back what Install did. A configuration that only Install needed is removed.
func Uninstall(dir string) (changed bool, err error) {
	changed, err = replace(filepath.Join(dir, userFile), withoutInclude)
	if err != nil {
		return changed, err
	}
	err = os.Remove(filepath.Join(dir, ownFile))
	if errors.Is(err, fs.ErrNotExist) {
		return changed, nil
	}
	if err != nil {
		return changed, fmt.Errorf("removing the configuration of OpenSSH for VMs: %w", err)
	}
	return true, nil
}

// withInclude puts the line at the top, unless it is at a place where it counts.
func withInclude(text []byte) []byte {
	for line := range bytes.Lines(text) {
		if isInclude(line) {
			return text
		}
		if beginsSection(line) {
			break
		}
	}
	return append([]byte(include+"\n"), text...)
}

// withoutInclude removes the line wherever it is.
func withoutInclude(text []byte) []byte {
	var rest []byte
	for line := range bytes.Lines(text) {
		if !isInclude(line) {
			rest = append(rest, line...)
		}
	}
	return rest
}

// beginsSection says whether what follows the line is for some hosts alone.
func beginsSection(line []byte) bool {
	words := strings.FieldsFunc(string(line), func(r rune) bool { return strings.ContainsRune(" \t\r\n=\"", r) })
	return len(words) > 0 && (strings.EqualFold(words[0], "Host") || strings.EqualFold(words[0], "Match"))
}

func isInclude(line []byte) bool { return strings.TrimSpace(string(line)) == include }

// replace changes a file's text as change says, so that a reader sees the old or the new one. A file that is to be empty
// and was not, is removed; one that is not there and is to be empty, is left so.
func replace(path string, change func([]byte) []byte) (changed bool, err error) {
	path, err = symlink.Target(path)
	if err != nil {
		return false, fault.New(fault.Failure, fmt.Errorf("finding the configuration of OpenSSH: %w", err), "its symbolic links lead in a circle")
	}
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("reading the configuration of OpenSSH: %w", err)
	}
	text := change(bytes.Clone(old))
	if bytes.Equal(old, text) {
		return false, nil
	}
	if len(text) == 0 {
		if err := os.Remove(path); err != nil {
			return false, fmt.Errorf("removing the configuration of OpenSSH: %w", err)
		}
		return true, nil
	}
	if err := publish(path, text); err != nil {
		return false, fmt.Errorf("writing the configuration of OpenSSH: %w", err)
	}
	return true, nil
}

// publish writes a file beside path, like the one that is there, and renames it.
func publish(path string, text []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".banger-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, err = file.Write(text)
	err = errors.Join(err, likeOld(file, path), file.Sync(), file.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	return fsync.Path(filepath.Dir(path))
}

// likeOld gives file the mode and the owner of the file at path, if there is one.
func likeOld(file *os.File, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return file.Chmod(fileMode)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		if err := file.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return file.Chmod(info.Mode().Perm())
}
