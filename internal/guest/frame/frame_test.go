package frame

import (
	"bytes"
	"testing"
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
