package policy

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
	"github.com/oschwald/maxminddb-golang/v2/mmdbdata"
)

// geoDB is a database in the MaxMind DB format 2.0 (https://maxmind.github.io/MaxMind-DB/), in memory: a
// mapped file that is written over would take the node down.
type geoDB struct {
	reader          *maxminddb.Reader
	data            []byte // the data section
	decoder         *mmdbdata.Decoder
	countries, asns bool // what its records hold
	name            string
	built           time.Time
	opened          bool // countries and asns are known
	v4only          bool
}

// geoFileBytes bounds what is read into memory. City databases have some 130 MB.
const geoFileBytes = 512 << 20

// country is a code of ISO 3166-1 in upper case.
type country [2]byte

func (c country) String() string { return string(c[:]) }

// openGeoDB opens a database and looks at the first records to know what they hold.
func openGeoDB(content []byte) (*geoDB, error) {
	r, err := maxminddb.OpenBytes(content)
	if err != nil {
		return nil, errors.New("it is no database in the MaxMind format")
	}
	m := r.Metadata
	start := m.NodeCount*(m.RecordSize/4) + 16
	end := uint(bytes.LastIndex(content, []byte("\xab\xcd\xefMaxMind.com")))
	if m.BinaryFormatMajorVersion != 2 || start > end || end > uint(len(content)) { // what OpenBytes has checked
		return nil, errors.New("it is a database of another version of the MaxMind format")
	}
	db := &geoDB{reader: r, data: content[start:end], built: m.BuildTime(), v4only: m.IPVersion == 4}
	db.decoder = mmdbdata.NewDecoder(db.data, 0)
	db.name = fmt.Sprintf("%s of %s", m.DatabaseType, db.built.UTC().Format(time.DateOnly))
	looked := 0
	for result := range r.Networks() {
		if err := result.Err(); err != nil {
			return nil, errors.New("its search tree is damaged")
		}
		p := db.record(result.Offset())
		db.countries, db.asns = db.countries || p.country != country{}, db.asns || p.asn != 0
		if looked++; looked == geoLookedAt || db.countries && db.asns {
			break
		}
	}
	if !db.countries && !db.asns {
		return nil, fmt.Errorf("%s holds neither countries nor autonomous systems", db.name)
	}
	db.opened = true
	return db, nil
}

// geoLookedAt is how many records tell what a database holds.
const geoLookedAt = 10_000

// find looks an address up.
func (db *geoDB) find(a netip.Addr) geoPlace {
	if db.v4only && !a.Is4() {
		return geoPlace{}
	}
	result := db.reader.Lookup(a)
	if !result.Found() {
		return geoPlace{}
	}
	return db.record(result.Offset())
}

// geoEntries bounds how many entries of a record are looked at. The widest known have some 20.
const geoEntries = 64

// record reads what a record says, in the forms of the known makers: country.iso_code (MaxMind, DB-IP),
// country_code or country (iptoasn, IPinfo), autonomous_system_number or asn. What it cannot
// read is unknown. It allocates nothing, other than maps into structs would.
func (db *geoDB) record(offset uintptr) (p geoPlace) {
	c := db.decoder.CursorAt(uint(offset))
	entries, err := c.MapReader()
	if err != nil {
		return p
	}
	at := entries.First()
	for range min(entries.Len(), geoEntries) {
		key, value, err := at.ReadMapKey()
		if err != nil {
			return p
		}
		switch string(key) {
		case "country":
			if kind, err := value.Kind(); err == nil && kind == mmdbdata.KindMap {
				if code := db.isoCode(value); code != (country{}) {
					p.country = code
				}
				break
			}
			fallthrough
		case "country_code":
			if code := codeOf(db.text(value)); code != (country{}) {
				p.country = code
			}
		case "autonomous_system_number", "asn":
			if n := db.asn(value); n != 0 {
				p.asn = n
			}
		}
		if db.opened && (p.country != country{} || !db.countries) && (p.asn != 0 || !db.asns) {
			return p // the rest is of no interest
		}
		if at, err = value.Skip(); err != nil {
			return p
		}
	}
	return p
}

// isoCode finds iso_code in a map.
func (db *geoDB) isoCode(c mmdbdata.Cursor) country {
	entries, err := c.MapReader()
	if err != nil {
		return country{}
	}
	at := entries.First()
	for range min(entries.Len(), geoEntries) {
		key, value, err := at.ReadMapKey()
		if err != nil {
			return country{}
		}
		if string(key) == "iso_code" {
			return codeOf(db.text(value))
		}
		if at, err = value.Skip(); err != nil {
			return country{}
		}
	}
	return country{}
}

// text is a short string of the data section, without a copy: type 2 in the upper three bits of the
// control byte, a length below 29 in the lower five.
func (db *geoDB) text(c mmdbdata.Cursor) []byte {
	off, err := c.Offset()
	if err != nil || off >= uint(len(db.data)) {
		return nil
	}
	control, rest := db.data[off], db.data[off+1:]
	n := int(control & 31)
	if control>>5 != 2 || n > 28 || n > len(rest) {
		return nil
	}
	return rest[:n]
}

// codeOf reads a country code.
func codeOf(b []byte) (c country) {
	if len(b) != 2 {
		return c
	}
	for i, l := range b {
		if l |= 0x20; l < 'a' || l > 'z' {
			return country{}
		}
		c[i] = b[i] &^ 0x20
	}
	return c
}

// asn reads the number of an autonomous system: 64496, "64496" or "AS64496".
func (db *geoDB) asn(c mmdbdata.Cursor) uint32 {
	if n, _, err := c.ReadUint(); err == nil {
		if n > 1<<32-1 {
			return 0
		}
		return uint32(n)
	}
	b := db.text(c)
	if len(b) > 2 && (b[0]|0x20) == 'a' && (b[1]|0x20) == 's' {
		b = b[2:]
	}
	n, err := strconv.ParseUint(string(b), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}
