package output

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// All selects every line.
const All = -1

// Follow copies the last lines of a plain file to out and, until ended says that nothing more comes, what is added to it.
// A nil ended does not wait for more. A file that is not there is empty. One that is cut is read from its new beginning.
func Follow(ctx context.Context, path string, tail int, ended func() bool, out io.Writer) error {
	file, err := openWhenThere(ctx, path, ended)
	if file == nil || err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if err := seekLines(file, tail); err != nil {
		return fmt.Errorf("reading %q: %w", path, err)
	}
	for {
		last := ended == nil || ended()
		if err := cutBack(file); err != nil {
			return fmt.Errorf("reading %q: %w", path, err)
		}
		if _, err := io.Copy(out, file); err != nil {
			return err
		}
		if last {
			return nil
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// pause waits before a file is looked at again. The end of ctx is an error, its cause.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(pollInterval):
		return nil
	}
}

// openWhenThere opens the file, and waits for it while there may be one.
func openWhenThere(ctx context.Context, path string, ended func() bool) (*os.File, error) {
	for {
		last := ended == nil || ended()
		file, err := os.Open(path)
		if err == nil || last && errors.Is(err, fs.ErrNotExist) {
			return file, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err := pause(ctx); err != nil {
			return nil, err
		}
	}
}

// cutBack goes to the beginning of a file that has become shorter than what was read of it.
func cutBack(file *os.File) error {
	at, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil && info.Size() < at {
		_, err = file.Seek(0, io.SeekStart)
	}
	return err
}

// seekLines goes to the beginning of the last n lines; a negative n goes to the beginning.
func seekLines(file *os.File, n int) error {
	if n < 0 {
		return nil
	}
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return err
	}
	buffer := make([]byte, 64<<10)
	lines := 0
	for at := end; at > 0; {
		size := min(int64(len(buffer)), at)
		at -= size
		if _, err := file.ReadAt(buffer[:size], at); err != nil {
			return err
		}
		for i := size - 1; i >= 0; i-- {
			if buffer[i] != '\n' || at+i == end-1 {
				continue
			}
			if lines++; lines == n {
				_, err := file.Seek(at+i+1, io.SeekStart)
				return err
			}
		}
	}
	_, err = file.Seek(0, io.SeekStart)
	return err
}
