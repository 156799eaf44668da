"""The words of tables: names of columns, units in them, and states of servers, in several languages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        meaning: tuple(words.split())
        for meaning, words in {
            "host": "host hostname fqdn name server servername machine node asset rechner "
            "rechnername gerätename serveur hôte nomdhôte 서버 "
            "서버명 호스트 호스트명 serwer nazwaserwera nazwahosta maszyna",
            "site": "site dc datacenter datacentre facility building location region standort emplacement "
            "rechenzentrum 센터 데이터센터 전산센터 lokalizacja centrumdanych centrededonnées",
            "hall": "hall room floor suite serverroom raum serverraum halle saal salle 전산실 상면 "
            "serwerownia pomieszczenie sala",
            "rack": "rack rackname cabinet rackid rackno racknumber racknr racknummer schrank "
            "serverschrank schranknr schranknummer baie armoire 랙 랙번호 szafa szafarack nrszafy",
            "position": "position rackposition u rackunit ru he höheneinheit 랙위치 유닛",
            "feed": "feed feeds powerfeed powerfeeds pdu pdus einspeisung 전원",
            "pool": "pool nodepool cluster k8scluster",
            "services": "service services role roles app apps application applications dienst "
            "dienste anwendung anwendungen rolle rôle 서비스 서비스명 역할 usługa usługi rola "
            "aplikacja aplikacje",
            "cpu": "cpu cpus core cores vcpu vcpus cpucores cpucount numcpus kerne cpukerne "
            "prozessorkerne cœurs coeurs 코어 코어수 cpu코어 rdzenie rdzenieprocesora liczbardzeni",
            "memory": "memory mem ram memorysize arbeitsspeicher hauptspeicher mémoire 메모리 "
            "pamięć pamięćram",
            "disk": "disk disks storage disksize localdisk ssd hdd festplatte festplatten platte "
            "platten disque disques 디스크 dysk dyski",
            "accelerators": "accelerators gpu gpus gpucount",
            "class": "class model sku hardware type servertype machinetype flavor modell "
            "servermodell servertyp 모델 모델명 modelserwera typ",
            "state": "state status lifecycle lifecyclestate zustand betriebsstatus état statut 상태 "
            "운영상태 stan stanserwera",
            "watts": "power watts wattage powerdraw maxpower leistung leistungsaufnahme puissance "
            "소비전력 moc pobórmocy",
            "serial": "serial serialnumber serialno servicetag sn seriennummer seriennr 시리얼 시리얼번호 "
            "numerseryjny nrseryjny",
            "bmc": "bmc bmcaddress bmcip ipmi ipmiip idrac idracip ilo iloip oobip",
            "owner": "owner team contact responsible eigentümer verantwortlich verantwortlicher propriétaire "
            "담당자 담당팀 właściciel zespół odpowiedzialny",
            "cpu demand": "cpudemand demandcpu cpurequest requestcpu",
            "memory demand": "memorydemand demandmemory memoryrequest requestmemory ramdemand",
        }.items()
    }
)
"""Meaning of a column -> its known names, surest first."""

STATE_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "serving": "serving active inuse inservice production prod live online up running on "
        "deployed inbetrieb aktiv produktiv actif enservice enproduction aktywny działa produkcja wprodukcji "
        "운영 운영중 사용중",
        "spare": "spare standby idle available free reserve frei verfügbar réserve disponible "
        "zapasowy rezerwa 예비 대기",
        "dark": "dark off offline poweredoff poweroff stopped shutoff paused suspended cold coldspare "
        "ausgeschaltet éteint arrêté wyłączony 정지 전원꺼짐",
        "condemned": "condemned retired decommissioned decommissioning decom broken failed faulty "
        "dead rma planned staged inventory instock stored ordered terminated maintenance inmaintenance "
        "underrepair outofservice outoforder "
        "defekt ausgemustert stillgelegt außerbetrieb eingelagert lager auflager geplant bestellt imaufbau "
        "wartung inwartung inreparatur "
        "horsservice enmaintenance enpanne stocké enstock prévu "
        "wycofany uszkodzony awaria planowany zamówiony magazyn wmagazynie wserwisie wnaprawie "
        "폐기 고장 장애 예정 점검 점검중",
    }
)
"""Server state -> words for it in a cell. Other words are reported, and the server does not count as
capacity.
"""

STATES: Final[Mapping[str, str]] = MappingProxyType(
    {word: state for state, words in STATE_WORDS.items() for word in words.split()}
)

_GENERAL_ROLE: Final = frozenset(
    word
    for words in (
        "server servers host hosts node nodes machine machines vm vms virtual virtualmachine",
        "physical bare metal baremetal rack rackserver blade bladeserver compute linux windows",
        "generic general purpose standard other misc none unknown default unassigned",
        "serveur serveurs serwer serwery rechner maschine maschinen knoten 서버 호스트",
    )
    for word in words.split()
)
"""Words of roles that say what a machine is, not what runs on it."""
_BETWEEN_WORDS: Final = re.compile(r"[\W_]+")

_UNITS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{f"{letter}b".lower(): f"{letter}B" for letter in "kMGTP"},
        **{f"{letter}ib".lower(): f"{letter}iB" for letter in "KMGTP"},
        **{f"{letter}i".lower(): f"{letter}iB" for letter in "KMGTP"},
        "w": "W",
        "watt": "W",
        "watts": "W",
        "kw": "kW",
        "cores": "cores",
    }
)
_TIMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        word: unit
        for unit, words in {
            "d": "d day days tag tage jour jours 일",
            "h": "h hr hrs hour hours std stunde stunden heure heures 시간",
            "min": "min mins minute minutes minuten 분",
            "s": "s sec secs second seconds sek sekunden 초",
        }.items()
        for word in words.split()
    }
)
_ENDING: Final = re.compile(r"(.*?)[\s_.(\[/-]+(?:in\s+)?([^\W\d_]+)[)\]]?\s*")


def is_general_role(role: str) -> bool:
    """Whether a role, such as `server` or `bare-metal`, names no service."""
    words = [word for word in _BETWEEN_WORDS.split(role.lower()) if word]
    return bool(words) and _GENERAL_ROLE.issuperset(words)


def unit_named(text: str) -> str | None:
    """The unit of an amount that a word means, in the spelling of estates."""
    return _UNITS.get(text.lower())


def time_unit(text: str) -> str | None:
    """The unit of a duration that a word means, in the spelling of estates."""
    return _TIMES.get(text.lower())


def without_unit(name: str) -> tuple[str, str]:
    """The name of a column without its last word, and that word, which may be a unit: `RAM (GiB)`."""
    match = _ENDING.fullmatch(name)
    return (match[1], match[2]) if match is not None else (name, "")
