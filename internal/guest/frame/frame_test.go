package frame

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// FuzzRead: any bytes give frames or an error, and what was written is read back.
func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	w := NewWriter(&b)
	_ = Begin(w, "exec", map[string]any{"argv": []string{"true"}})
	_ = w.Write(Stdin, []byte("data"))
	f.Add(b.Bytes())
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0})
	f.Add([]byte{2, 0, 1, 0, 0, 'x'})
	f.Fuzz(func(t *testing.T, stream []byte) {
		checkReader(t, stream)
		r := bytes.NewReader(stream)
		var again bytes.Buffer
		for {
			read := len(stream) - r.Len()
			frame, err := Read(r)
			if err != nil {
				if again.Len() != read {
					t.Errorf("%d bytes were read as whole frames, and give %d when written again", read, again.Len())
				}
				return
			}
			if err := NewWriter(&again).Write(frame.Kind, frame.Payload); err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(stream, again.Bytes()) {
				t.Fatalf("the frames of %x are %x when written again", stream, again.Bytes())
			}
		}
	})
}

// checkReader checks that a Reader finds the frames that Read finds.
func checkReader(t *testing.T, stream []byte) {
	one := bytes.NewReader(stream)
	many := NewReader(iotest.HalfReader(bytes.NewReader(stream)))
	for {
		want, wantErr := Read(one)
		got, err := many.Next()
		if (err == nil) != (wantErr == nil) || errors.Is(err, io.EOF) != errors.Is(wantErr, io.EOF) {
			t.Fatalf("Next gave the error %v where Read gives %v", err, wantErr)
		}
		if err != nil {
			return
		}
		if got.Kind != want.Kind || !bytes.Equal(got.Payload, want.Payload) {
			t.Fatalf("Next gave %v where Read gives %v", got, want)
		}
	}
}

// TestReader: frames of all sizes are found, without an allocation for each.
func TestReader(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	for range 100 {
		_ = w.Write(Stdout, make([]byte, ChunkSize))
	}
	_ = w.Write(Stdout, make([]byte, MaxPayload))
	checkReader(t, b.Bytes())
	r := NewReader(&b)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if got := testing.AllocsPerRun(50, func() { _, _ = r.Next() }); got > 0 {
		t.Errorf("%v allocations for each frame, want none", got)
	}
}

// TestRequestTooLong: a request that does not fit into a frame is no lost connection, and nothing of it is sent.
func TestRequestTooLong(t *testing.T) {
	var b bytes.Buffer
	err := Begin(NewWriter(&b), "exec", map[string]any{"argv": []string{strings.Repeat("x", MaxPayload)}})
	if err == nil || errors.Is(err, ErrDisconnected) || b.Len() > 0 {
		t.Errorf("a request of more than %d bytes gives %v, and %d bytes are sent", MaxPayload, err, b.Len())
	}
}

// TestRefusalCannotSteerTheTerminal: a guest chooses the text of a refusal.
func TestRefusalCannotSteerTheTerminal(t *testing.T) {
	got := DecodeRefusal([]byte(`{"reason":"failed","message":"\u001b]0;owned\u0007no \u202efile"}`))
	if want := "\uFFFD]0;owned\uFFFDno \uFFFDfile"; got.Message != want {
		t.Errorf("the text is %q, want %q", got.Message, want)
	}
}
