package channel

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// muxFrame is a frame of yamux with a body of zeros if it is data.
func muxFrame(kind byte, flags uint16, stream, length uint32) []byte {
	b := []byte{0, kind}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	b = binary.BigEndian.AppendUint32(b, length)
	if kind == muxData {
		b = append(b, make([]byte, length)...)
	}
	return b
}

func TestFilter(t *testing.T) {
	const windowUpdate, goAway, ack, fin = 1, 3, 2, 4
	ping := muxFrame(muxPing, muxSYN, 0, 7)
	inBody := muxFrame(muxData, 0, 1, uint32(len(ping)))
	copy(inBody[muxHeaderSize:], ping)
	tests := []struct {
		name   string
		frames [][]byte
		fails  bool
	}{
		{name: "what an agent sends", frames: [][]byte{
			muxFrame(windowUpdate, ack, 1, 1<<20), muxFrame(muxData, 0, 1, 100), muxFrame(muxData, fin, 1, 0), muxFrame(goAway, 0, 0, 0),
		}},
		{name: "ping as data", frames: [][]byte{inBody, inBody}},
		{name: "ping", frames: [][]byte{muxFrame(muxData, 0, 1, 5), ping}, fails: true},
		{name: "answer to a ping", frames: [][]byte{muxFrame(muxPing, ack, 0, 7)}, fails: true},
		{name: "stream opened with data", frames: [][]byte{muxFrame(muxData, muxSYN, 2, 3)}, fails: true},
		{name: "stream opened with a window", frames: [][]byte{muxFrame(windowUpdate, muxSYN|ack, 2, 0)}, fails: true},
		{name: "ping after a window update", frames: [][]byte{muxFrame(windowUpdate, 0, 1, 0xffffffff), ping}, fails: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, step := range []int{1, 5, 13, 1000} {
				if err := checkInPieces(test.frames, step); errors.Is(err, errGuestRules) != test.fails {
					t.Errorf("in pieces of %d bytes: error %v, want one: %v", step, err, test.fails)
				}
			}
		})
	}
}

func checkInPieces(frames [][]byte, step int) error {
	var f filter
	for _, b := range frames {
		for len(b) > 0 {
			n := min(step, len(b))
			if err := f.check(b[:n]); err != nil {
				return err
			}
			b = b[n:]
		}
	}
	return nil
}

// TestHostileGuest: a guest that pings or opens streams loses its session at once.
func TestHostileGuest(t *testing.T) {
	for name, frame := range map[string][]byte{
		"ping":   muxFrame(muxPing, muxSYN, 0, 1),
		"stream": muxFrame(1, muxSYN, 2, 0),
	} {
		t.Run(name, func(t *testing.T) {
			host, guest := net.Pipe()
			defer func() { _ = guest.Close() }()
			go flood(guest, frame)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			s, err := Dial(ctx, host, testMagic)
			if err != nil {
				t.Fatalf("dialling: %v", err)
			}
			select {
			case <-s.Done():
			case <-time.After(30 * time.Second):
				t.Error("the session lasts although the guest breaks the rules")
			}
			if err := s.Err(); !errors.Is(err, errGuestRules) {
				t.Errorf("the session's error is %v, want %v", err, errGuestRules)
			}
			_ = s.Close()
		})
	}
}

// flood answers a host's handshake and then sends frame until the host hangs up, without reading.
func flood(guest net.Conn, frame []byte) {
	buffer := make([]byte, recordSize)
	if _, err := io.ReadFull(guest, buffer); err != nil {
		return
	}
	syn, _ := decode(buffer)
	_, _ = guest.Write(record{kind: kindACK, nonce: syn.nonce}.encode(testMagic))
	if _, err := io.ReadFull(guest, buffer); err != nil {
		return
	}
	for range 10_000 {
		if _, err := guest.Write(frame); err != nil {
			return
		}
	}
}

// FuzzFilter: any bytes, however they are cut, are judged alike.
func FuzzFilter(f *testing.F) {
	f.Add(muxFrame(muxData, 0, 1, 30), uint8(3))
	f.Add(append(muxFrame(1, 0, 1, 9), muxFrame(muxPing, 0, 0, 0)...), uint8(7))
	f.Fuzz(func(t *testing.T, stream []byte, step uint8) {
		whole, pieces := checkInPieces([][]byte{stream}, len(stream)+1), checkInPieces([][]byte{stream}, int(step)+1)
		if (whole == nil) != (pieces == nil) {
			t.Errorf("as a whole: %v; in pieces of %d bytes: %v", whole, int(step)+1, pieces)
		}
	})
}
