package sftp

import (
	"encoding/binary"
	"errors"
	"io"
	"syscall"
)

// Status codes (draft-ietf-secsh-filexfer-02, section 7).
const (
	statusOK               = 0
	statusEOF              = 1
	statusNoSuchFile       = 2
	statusPermissionDenied = 3
	statusFailure          = 4
	statusBadMessage       = 5
	statusUnsupported      = 8
)

var (
	errBadMessage  = errors.New("the request is too short, or has an impossible number")
	errUnsupported = errors.New("the server does not know the request")
	errHandle      = errors.New("there is no such handle, or it is of another kind")
	errSameFile    = errors.New("both are the same file, which could be copied to its own end for ever")
	errNoUser      = errors.New("the guest has no such user")
)

// status is the payload of the answer to a request that failed with err, or succeeded.
func status(err error) []byte {
	text := "Success"
	if err != nil {
		text = reason(err)
	}
	b := binary.BigEndian.AppendUint32(nil, statusCode(err))
	return appendString(appendString(b, text), "") // the language of the text
}

// reason leaves out what the client knows: the names.
func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

// statusCode translates an error as OpenSSH does (sftp-server.c, errno_to_portable).
func statusCode(err error) uint32 {
	var errno syscall.Errno
	switch {
	case err == nil:
		return statusOK
	case errors.Is(err, io.EOF):
		return statusEOF
	case errors.Is(err, errBadMessage):
		return statusBadMessage
	case errors.Is(err, errUnsupported):
		return statusUnsupported
	case !errors.As(err, &errno):
		return statusFailure
	}
	switch errno {
	case syscall.ENOENT, syscall.ENOTDIR, syscall.EBADF, syscall.ELOOP:
		return statusNoSuchFile
	case syscall.EPERM, syscall.EACCES, syscall.EFAULT:
		return statusPermissionDenied
	case syscall.ENAMETOOLONG, syscall.EINVAL:
		return statusBadMessage
	case syscall.ENOSYS:
		return statusUnsupported
	}
	return statusFailure
}
