package exec

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// frameType is the first byte of a frame. The zero type is invalid.
type frameType uint8

// From the host.
const (
	frameRequest  frameType = 1 // JSON of request; the first frame, once
	frameStdin    frameType = 2 // bytes of standard input
	frameStdinEOF frameType = 3 // empty: no more input
	frameResize   frameType = 4 // JSON of Size
	frameSignal   frameType = 5 // one byte: the number of a signal for the command's process group
)

// From the guest.
const (
	frameStdout   frameType = 16 // bytes of standard output, or of the terminal
	frameStderr   frameType = 17 // bytes of standard error
	frameConsumed frameType = 18 // u32 BE: the command took this many bytes of standard input
	frameExit     frameType = 19 // JSON of exit; the last frame
	frameError    frameType = 20 // JSON of StartError; the last frame
	frameReply    frameType = 21 // JSON, the answer to a request that is no command; the last frame
)

const (
	headerSize = 5 // type u8, length u32 BE
	// maxPayload bounds a frame. A request may carry a whole command line and environment, for which the kernel allows
	// a quarter of the stack limit: 2 MiB with the usual one (execve(2)).
	maxPayload = 4 << 20

	chunkSize = 32 << 10 // largest payload of the frames that carry input or output
	// stdinWindow is how many bytes of standard input may be on their way to a command. It keeps a command that does not
	// read from holding up the signals and sizes behind its input.
	stdinWindow = 256 << 10
)

// frame is one message of a stream.
type frame struct {
	kind    frameType
	payload []byte
}

// readFrame reads one frame. Its payload is newly allocated. The end of the stream
// between two frames is io.EOF.
func readFrame(r io.Reader) (frame, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return frame{}, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length > maxPayload {
		return frame{}, fmt.Errorf("reading a frame of type %d: %d bytes are more than %d", header[0], length, maxPayload)
	}
	payload, err := readPayload(r, int(length))
	return frame{kind: frameType(header[0]), payload: payload}, err
}

// readPayload reads length bytes. It reserves more than a chunk only in step with what really arrives.
func readPayload(r io.Reader, length int) ([]byte, error) {
	if length <= chunkSize {
		payload := make([]byte, length)
		_, err := io.ReadFull(r, payload)
		return payload, unexpected(err)
	}
	payload, err := io.ReadAll(io.LimitReader(r, int64(length)))
	if err == nil && len(payload) < length {
		err = io.ErrUnexpectedEOF
	}
	return payload, err
}

// unexpected turns the end of a stream inside a frame into an error of its own.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// frameWriter writes frames, each whole. It is safe for concurrent use.
type frameWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frameWriter) write(kind frameType, payload []byte) error {
	b := make([]byte, 0, headerSize+len(payload))
	b = append(b, byte(kind))
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, payload...)
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.w.Write(b)
	return err
}

func (f *frameWriter) writeJSON(kind frameType, value any) error {
	payload, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if len(payload) > maxPayload {
		return fmt.Errorf("writing a frame: %d bytes are more than %d", len(payload), maxPayload)
	}
	return f.write(kind, payload)
}

// stream is an io.Writer that makes frames of one type.
type stream struct {
	frames *frameWriter
	kind   frameType
}

// Write sends b as one frame; b is a chunk at most.
func (s stream) Write(b []byte) (int, error) {
	if err := s.frames.write(s.kind, b); err != nil {
		return 0, err
	}
	return len(b), nil
}
