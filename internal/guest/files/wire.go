package files

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// The frames that carry a tree, beside those of package frame.
const (
	kindEntry frame.Kind = 32 // an encoded entry
	kindData  frame.Kind = 33 // u64 BE offset, then bytes of the entry before
	kindDone  frame.Kind = 34 // JSON of done: the tree is complete
)

const (
	// chunkSize is how many bytes of a file are read and sent at once: enough that the calls cost little.
	chunkSize = 256 << 10
	// batchSize is how many bytes of small frames go out in one write.
	batchSize = 64 << 10

	offsetSize = 8 // of the offset before data
)

// done is the payload of kindDone.
type done struct {
	Notes []string `json:"notes,omitempty"`
}

// outbox is the sink that sends a tree over a stream. Small frames are gathered and written together.
type outbox struct {
	w       *bufio.Writer
	head    [5 + offsetSize]byte
	scratch []byte
	broken  bool // the stream takes no more
}

func newOutbox(stream io.Writer) *outbox { return &outbox{w: bufio.NewWriterSize(stream, batchSize)} }

// begin writes the header of a frame of so many bytes.
func (o *outbox) begin(kind frame.Kind, length int) {
	o.head[0] = byte(kind)
	binary.BigEndian.PutUint32(o.head[1:], uint32(length))
}

func (o *outbox) entry(e *Entry) error {
	o.scratch = appendEntry(o.scratch[:0], e)
	if len(o.scratch) > frame.MaxPayload {
		return fmt.Errorf("sending %q: its attributes are more than %d bytes", e.Name, frame.MaxPayload)
	}
	o.begin(kindEntry, len(o.scratch))
	_, _ = o.w.Write(o.head[:5])
	return o.write(o.scratch)
}

func (o *outbox) data(off int64, p []byte) error {
	for len(p) > chunkSize {
		if err := o.data(off, p[:chunkSize]); err != nil {
			return err
		}
		off, p = off+chunkSize, p[chunkSize:]
	}
	o.begin(kindData, offsetSize+len(p))
	binary.BigEndian.PutUint64(o.head[5:], uint64(off))
	_, _ = o.w.Write(o.head[:])
	return o.write(p)
}

// write writes the end of a frame. A bufio.Writer keeps its first error, so those before need no look.
func (o *outbox) write(p []byte) error {
	_, err := o.w.Write(p)
	return o.check(err)
}

func (o *outbox) check(err error) error {
	if err == nil {
		return nil
	}
	o.broken = true
	return frame.Lost(err)
}

func (o *outbox) end(notes []string) error {
	text, err := json.Marshal(done{notes})
	if err != nil {
		return err
	}
	o.begin(kindDone, len(text))
	_, _ = o.w.Write(o.head[:5])
	_, _ = o.w.Write(text)
	return o.flush()
}

// flush sends what has been gathered.
func (o *outbox) flush() error {
	return o.check(o.w.Flush())
}

// inbox receives a tree from a stream.
type inbox struct {
	frames *frame.Reader
	last   Kind  // of the entry before
	size   int64 // of the entry before
	at     int64 // how far its content has come
}

func newInbox(stream io.Reader) *inbox { return &inbox{frames: frame.NewReader(stream)} }

// pump passes a tree on to its end, once it has checked that each frame is in order. The sender's *frame.Refusal is
// returned as the error, and so is the end of the stream, as frame.ErrDisconnected.
func (in *inbox) pump(to sink) error {
	for {
		f, err := in.frames.Next()
		if err != nil {
			return frame.Lost(err)
		}
		switch f.Kind {
		case kindEntry:
			err = in.entry(f.Payload, to)
		case kindData:
			err = in.data(f.Payload, to)
		case kindDone:
			return in.end(f.Payload, to)
		case frame.Error:
			return frame.DecodeRefusal(f.Payload)
		}
		if err != nil {
			return err
		}
	}
}

func (in *inbox) entry(payload []byte, to sink) error {
	e, err := decodeEntry(payload)
	if err != nil {
		return fmt.Errorf("receiving a tree: %w", err)
	}
	in.last, in.size, in.at = e.Kind, e.Size, 0
	return to.entry(e)
}

func (in *inbox) data(payload []byte, to sink) error {
	if len(payload) < offsetSize {
		return fmt.Errorf("receiving a tree: data of %d bytes has no offset", len(payload))
	}
	off, p := int64(binary.BigEndian.Uint64(payload)), payload[offsetSize:]
	if in.last != Regular || off < in.at || off > in.size || int64(len(p)) > in.size-off {
		return fmt.Errorf("receiving a tree: %d bytes at %d are not in order", len(p), off)
	}
	in.at = off + int64(len(p))
	return to.data(off, p)
}

func (in *inbox) end(payload []byte, to sink) error {
	var d done
	if err := json.Unmarshal(payload, &d); err != nil {
		return fmt.Errorf("receiving a tree: %w", err)
	}
	if len(d.Notes) > maxNotes+1 {
		d.Notes = d.Notes[:maxNotes+1]
	}
	return to.end(d.Notes)
}
