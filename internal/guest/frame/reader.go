package frame

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

const (
	// readAhead is how many bytes a Reader asks for at once while frames are small.
	readAhead = 64 << 10
	// trusted is up to which length a Reader reserves a payload's memory before the payload has arrived.
	trusted = 1 << 20
)

// Reader reads the frames of a stream that carries many, and allocates nothing for each. It reads ahead: the stream is
// the Reader's from then on. It is not safe for concurrent use.
type Reader struct {
	r       *bufio.Reader
	payload []byte
}

// NewReader returns a Reader of the frames that follow in r.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, readAhead)} }

// Next reads one frame, whose payload is valid until the next call. The end of the stream between two frames is io.EOF.
func (r *Reader) Next() (Frame, error) {
	header, err := r.r.Peek(headerSize)
	if err != nil {
		if len(header) > 0 {
			err = unexpected(err)
		}
		return Frame{}, err
	}
	kind, length := Kind(header[0]), binary.BigEndian.Uint32(header[1:])
	if length > MaxPayload {
		return Frame{}, fmt.Errorf("reading a frame of type %d: %d bytes are more than %d", kind, length, MaxPayload)
	}
	_, _ = r.r.Discard(headerSize) // what was peeked at is there
	payload, err := r.read(int(length))
	return Frame{Kind: kind, Payload: payload}, err
}

// read reads a payload.
func (r *Reader) read(length int) ([]byte, error) {
	if length > trusted {
		return readPayload(r.r, length)
	}
	if cap(r.payload) < length {
		r.payload = make([]byte, max(length, ChunkSize))
	}
	payload := r.payload[:length]
	_, err := io.ReadFull(r.r, payload)
	return payload, unexpected(err)
}
