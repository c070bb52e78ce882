package sftp

import "encoding/binary"

// message is what is left to be read of a request. What is missing is zero, and makes it bad.
type message struct {
	rest []byte
	bad  bool
}

// err says whether something was missing. It is asked before anything is done.
func (m *message) err() error {
	if m.bad {
		return errBadMessage
	}
	return nil
}

// take returns the next n bytes, which belong to the request.
func (m *message) take(n int) []byte {
	if n > len(m.rest) {
		m.bad, m.rest = true, nil
		return nil
	}
	taken := m.rest[:n]
	m.rest = m.rest[n:]
	return taken
}

func (m *message) uint32() uint32 {
	if b := m.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (m *message) uint64() uint64 {
	if b := m.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// bytes returns a string of the protocol: a length and as many bytes.
func (m *message) bytes() []byte {
	n := m.uint32()
	if int64(n) > int64(len(m.rest)) {
		m.bad, m.rest = true, nil
		return nil
	}
	return m.take(int(n))
}

func (m *message) string() string { return string(m.bytes()) }

// offset reads a position in a file, which the kernel takes as a signed number.
func (m *message) offset() int64 {
	n := int64(m.uint64())
	if n < 0 {
		m.bad = true
	}
	return n
}

func appendString[T string | []byte](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
