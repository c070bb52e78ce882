// Package frame is what travels on a stream of the channel: frames of a type, a length and a payload. The first one is
// the host's request, and the guest answers with a reply or a refusal, before or instead of what else the request brings
// about. Ask is the host's half of that, Router the guest's. docs/guest-protocol.md is the specification.
package frame

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Kind is the first byte of a frame. The zero Kind is invalid.
type Kind uint8

// The kinds that the host sends.
const (
	Request  Kind = 1 // a request in JSON; the first frame, once
	Stdin    Kind = 2 // bytes of standard input
	StdinEOF Kind = 3 // empty: no more input
	Resize   Kind = 4 // a size in JSON
	Signal   Kind = 5 // one byte: the number of a signal for the command's process group
)

// The kinds that the guest sends.
const (
	Stdout   Kind = 16 // bytes of standard output, or of the terminal
	Stderr   Kind = 17 // bytes of standard error
	Consumed Kind = 18 // u32 BE: the command took this many bytes of standard input
	Exit     Kind = 19 // JSON, how the command ended; the last frame
	Error    Kind = 20 // JSON of Refusal; the last frame
	Reply    Kind = 21 // JSON, the answer to a request that is no command
	Started  Kind = 22 // empty: the command runs

	StdoutEOF Kind = 23 // empty: no more output
	Accepted  Kind = 24 // JSON: a connection that waits at a listener
)

const (
	headerSize = 5 // type u8, length u32 BE
	// MaxPayload bounds a frame. A request may carry a whole command line and environment, for which the kernel allows
	// a quarter of the stack limit: 2 MiB with the usual one (execve(2)).
	MaxPayload = 4 << 20

	// ChunkSize is the largest payload of the frames that carry input or output, in bytes, but for datagrams.
	ChunkSize = 32 << 10
)

// Frame is one message of a stream.
type Frame struct {
	Kind    Kind
	Payload []byte
}

// Read reads one frame. Its payload is newly allocated. The end of the stream
// between two frames is io.EOF.
func Read(r io.Reader) (Frame, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return Frame{}, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length > MaxPayload {
		return Frame{}, fmt.Errorf("reading a frame of type %d: %d bytes are more than %d", header[0], length, MaxPayload)
	}
	payload, err := readPayload(r, int(length))
	return Frame{Kind: Kind(header[0]), Payload: payload}, err
}

// readPayload reads length bytes. It reserves more than a chunk only in step with what really arrives.
func readPayload(r io.Reader, length int) ([]byte, error) {
	if length <= ChunkSize {
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

// Writer writes frames, each whole. It is safe for concurrent use.
type Writer struct {
	mu     sync.Mutex
	w      io.Writer
	buffer []byte // of the frame before, for its memory
}

// NewWriter returns a Writer of frames to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write writes one frame.
func (f *Writer) Write(kind Kind, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.buffer[:0]
	b = append(b, byte(kind))
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, payload...)
	if len(payload) <= ChunkSize {
		f.buffer = b
	}
	_, err := f.w.Write(b)
	return err
}

// WriteJSON writes one frame whose payload is value.
func (f *Writer) WriteJSON(kind Kind, value any) error {
	payload, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if len(payload) > MaxPayload {
		return fmt.Errorf("writing a frame: %d bytes are more than %d", len(payload), MaxPayload)
	}
	return f.Write(kind, payload)
}

// Stream returns an io.Writer that makes a frame of each write, which is a chunk at most.
func (f *Writer) Stream(kind Kind) io.Writer { return stream{f, kind} }

// stream makes frames of one kind.
type stream struct {
	frames *Writer
	kind   Kind
}

// Write sends b as one frame; b is a chunk at most.
func (s stream) Write(b []byte) (int, error) {
	if err := s.frames.Write(s.kind, b); err != nil {
		return 0, err
	}
	return len(b), nil
}
