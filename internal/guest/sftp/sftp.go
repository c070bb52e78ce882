// Package sftp is the guest's half of sftp and scp: a server of version 3 of the SSH File Transfer Protocol
// (draft-ietf-secsh-filexfer-02), the one that OpenSSH speaks, with the extensions of OpenSSH's own server (PROTOCOL of
// its sources, section 4). It runs as a process of the user whose files it serves, so that what they may do is for the
// kernel to decide, and it resolves relative names from its working directory.
//
// It answers one request after the other, as OpenSSH's does: a client that wants more throughput sends more requests
// before it waits, and larger ones. It implements no file locks and no text mode, which version 3 does not have.
package sftp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// Limits, as OpenSSH's server has them (sftp-server.c, SFTP_MAX_MSG_LENGTH), which it tells by limits@openssh.com.
const (
	maxPacket = 256 << 10        // bytes of a packet without its length
	maxData   = maxPacket - 1024 // bytes that one request reads or writes
	version   = 3
)

// Packet types (draft-ietf-secsh-filexfer-02, section 3).
const (
	typeInit          = 1
	typeVersion       = 2
	typeOpen          = 3
	typeClose         = 4
	typeRead          = 5
	typeWrite         = 6
	typeLstat         = 7
	typeFstat         = 8
	typeSetstat       = 9
	typeFsetstat      = 10
	typeOpendir       = 11
	typeReaddir       = 12
	typeRemove        = 13
	typeMkdir         = 14
	typeRmdir         = 15
	typeRealpath      = 16
	typeStat          = 17
	typeRename        = 18
	typeReadlink      = 19
	typeSymlink       = 20
	typeStatus        = 101
	typeHandle        = 102
	typeData          = 103
	typeName          = 104
	typeAttrs         = 105
	typeExtended      = 200
	typeExtendedReply = 201
)

// server is one conversation.
type server struct {
	in     *bufio.Reader
	out    *bufio.Writer
	packet []byte // the request at hand; its memory is used again for the next one
	data   []byte // what the request at hand has read
	open   handles
	names  names
}

// Serve answers the requests of in until its end, and closes what they have opened. A client that breaks the protocol
// ends it with an error; a request that fails is answered.
func Serve(in io.Reader, out io.Writer) error {
	s := &server{out: bufio.NewWriterSize(out, 64<<10), names: names{}}
	s.in = bufio.NewReaderSize(flushFirst{in, s.out}, 64<<10)
	defer s.open.closeAll()
	for {
		err := s.next()
		if errors.Is(err, io.EOF) {
			return s.out.Flush()
		}
		if err != nil {
			return errors.Join(err, s.out.Flush())
		}
	}
}

// flushFirst sends what is ready before it waits for more to do, and so sends the answers to requests that came together
// in one write.
type flushFirst struct {
	io.Reader
	out *bufio.Writer
}

func (f flushFirst) Read(b []byte) (int, error) {
	if err := f.out.Flush(); err != nil {
		return 0, err
	}
	return f.Reader.Read(b)
}

// next answers one request.
func (s *server) next() error {
	var length [4]byte
	if _, err := io.ReadFull(s.in, length[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size < 5 || size > maxPacket {
		return fmt.Errorf("reading a request: %d bytes are not from 5 to %d", size, maxPacket)
	}
	if cap(s.packet) < int(size) {
		s.packet = make([]byte, size)
	}
	s.packet = s.packet[:size]
	if _, err := io.ReadFull(s.in, s.packet); err != nil {
		return io.ErrUnexpectedEOF
	}
	kind := s.packet[0]
	m := &message{rest: s.packet[1:]}
	id := m.uint32() // of typeInit it is the client's version
	if kind == typeInit {
		return s.send(typeVersion, version, extensionList())
	}
	a, err := s.handle(kind, m)
	switch {
	case err != nil:
		return s.send(typeStatus, id, status(err))
	case a.kind == 0:
		return s.send(typeStatus, id, status(nil))
	}
	return s.send(a.kind, id, a.payload)
}

// answer is what a request is answered with; the zero answer is a status of success.
type answer struct {
	kind    byte
	payload []byte
}

// handle carries out a request.
func (s *server) handle(kind byte, m *message) (answer, error) {
	switch kind {
	case typeOpen:
		return s.openFile(m)
	case typeClose:
		return s.close(m)
	case typeRead:
		return s.read(m)
	case typeWrite:
		return s.write(m)
	case typeFstat:
		return s.fstat(m)
	case typeFsetstat:
		return s.fsetstat(m)
	case typeOpendir:
		return s.openDirectory(m)
	case typeReaddir:
		return s.readDirectory(m)
	case typeExtended:
		return s.extended(m)
	}
	return s.handlePath(kind, m)
}

// handlePath carries out a request that names a file.
func (s *server) handlePath(kind byte, m *message) (answer, error) {
	switch kind {
	case typeStat:
		return stat(m, os.Stat)
	case typeLstat:
		return stat(m, os.Lstat)
	case typeSetstat:
		return setstat(m)
	case typeRemove:
		return remove(m)
	case typeMkdir:
		return makeDirectory(m)
	case typeRmdir:
		return removeDirectory(m)
	case typeRealpath:
		return realpath(m)
	case typeRename:
		return rename(m)
	case typeReadlink:
		return readlink(m)
	case typeSymlink:
		return symlink(m)
	}
	return answer{}, errUnsupported
}

// send writes one packet.
func (s *server) send(kind byte, id uint32, payload []byte) error {
	var header [9]byte
	binary.BigEndian.PutUint32(header[:], uint32(5+len(payload)))
	header[4] = kind
	binary.BigEndian.PutUint32(header[5:], id)
	_, err := s.out.Write(header[:])
	if err == nil {
		_, err = s.out.Write(payload)
	}
	if err != nil {
		return fmt.Errorf("answering a request: %w", err)
	}
	return nil
}
