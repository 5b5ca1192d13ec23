package machine

import (
	"encoding/binary"
	"slices"
)

// Entry is one entry of a POSIX access list (acl(5)).
type Entry struct {
	Tag  string `json:"tag"` // "user-obj", "user", "group-obj", "group", "mask", "other"
	ID   uint32 `json:"id,omitempty"`
	Perm uint32 `json:"perm"`
}

var aclTags = map[uint16]string{0x01: "user-obj", 0x02: "user", 0x04: "group-obj", 0x08: "group", 0x10: "mask", 0x20: "other"}

// parseACL reads the attribute system.posix_acl_access (linux/posix_acl_xattr.h): version 2, then
// entries of tag, permissions and id, little-endian, in the order of the tags. Nil if it is none.
func parseACL(raw []byte) (entries []Entry) {
	if len(raw) < 4 || (len(raw)-4)%8 != 0 || binary.LittleEndian.Uint32(raw) != 2 {
		return nil
	}
	for b := raw[4:]; len(b) > 0; b = b[8:] {
		tag, ok := aclTags[binary.LittleEndian.Uint16(b)]
		perm := binary.LittleEndian.Uint16(b[2:])
		if !ok || perm > 7 {
			return nil
		}
		e := Entry{Tag: tag, Perm: uint32(perm)}
		if tag == "user" || tag == "group" {
			e.ID = binary.LittleEndian.Uint32(b[4:])
		}
		entries = append(entries, e)
	}
	return entries
}

// Capabilities that overrule permissions (capabilities(7)).
const (
	capOverride = 1 << 1 // CAP_DAC_OVERRIDE
	capSearch   = 1 << 2 // CAP_DAC_READ_SEARCH
)

// Bits of a wish.
const (
	bitX = 1
	bitW = 2
	bitR = 4
)

func (who *Identity) in(gid uint32) bool { return who.GID == gid || slices.Contains(who.Groups, gid) }

// may decides as Linux does (fs/namei.c, generic_permission): the first class that fits decides, even
// when a later one would allow. A list counts only when its mask, which stat shows as the bits of the
// group, allows anything at all. The class says which rule it was.
func (who *Identity) may(c *Component, want uint32) (ok bool, class string) {
	ok, class = who.mode(c, want)
	if ok {
		return ok, class
	}
	switch {
	case c.dir() && want&bitW == 0 && who.Caps&(capSearch|capOverride) != 0,
		c.dir() && who.Caps&capOverride != 0,
		!c.dir() && want == bitR && who.Caps&capSearch != 0,
		!c.dir() && who.Caps&capOverride != 0 && (want&bitX == 0 || c.perm&0o111 != 0):
		return true, "capability"
	}
	return false, class
}

func (who *Identity) mode(c *Component, want uint32) (ok bool, class string) {
	if who.UID == c.UID {
		return c.perm>>6&want == want, "owner"
	}
	if c.ACL != nil && c.perm&0o070 != 0 {
		return who.list(c.ACL, want, c.GID)
	}
	if who.in(c.GID) {
		return c.perm>>3&want == want, "group"
	}
	return c.perm&want == want, "other"
}

// list is posix_acl_permission of fs/posix_acl.c: a named user decides, then any group that allows,
// then, if a group fitted, nobody; both are narrowed by the mask.
func (who *Identity) list(acl []Entry, want, gid uint32) (ok bool, class string) {
	mask, masked := uint32(7), false
	for _, e := range acl {
		if e.Tag == "mask" {
			mask, masked = e.Perm, true
		}
	}
	narrowed := func(e Entry, class string) (bool, string) {
		if e.Perm&want == want && masked && e.Perm&mask&want != want {
			return false, "mask"
		}
		return e.Perm&mask&want == want, class
	}
	fitted := ""
	for _, e := range acl {
		switch {
		case e.Tag == "user" && e.ID == who.UID:
			return narrowed(e, "user")
		case e.Tag == "group-obj" && who.in(gid), e.Tag == "group" && who.in(e.ID):
			if e.Perm&want == want {
				return narrowed(e, e.Tag)
			}
			if fitted = "group-obj"; e.Tag == "group" {
				fitted = "group"
			}
		}
	}
	if fitted != "" {
		return false, fitted
	}
	for _, e := range acl {
		if e.Tag == "other" {
			return e.Perm&want == want, "other"
		}
	}
	return false, "other"
}
