"""Names and things the generators fill their sentences with."""


def _words(text: str, *, at: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(at))


PEOPLE = _words(
    "Adele Amina Arjun Astrid Bao Beatriz Callum Celia Dario Dilnoza Edith Emeka Fiona Gustav Hana Idris Ines Jamal "
    "Jiro Kaia Katya Lars Leonor Malik Marta Miro Naomi Nikhil Odette Olek Paloma Pilar Rafael Ruth Sanna Selim "
    "Tamsin Teo Ulla Vera Wanda Xavier Yara Zelda"
)
SURNAMES = _words(
    "Abbott Andersson Baptiste Bianchi Carver Chaudhry Dimitrov Eklund Farouk Ferreira Goldberg Hernandez Hughes "
    "Ibrahim Johansson Kaplan Kovacs Lindqvist Marchetti Mensah Nakamura Obi Papadakis Quist Rahman Sorensen "
    "Takahashi Unger Villanueva Walsh Yilmaz Zielinski"
)
CITIES = _words(
    "Antwerp Bilbao Bogota Bristol Cusco Dakar Gdansk Ghent Graz Hobart Izmir Jaipur Kigali Lagos Leipzig Lyon Malmo "
    "Mombasa Naples Osaka Perth Tallinn Tampere Tbilisi Utrecht Valencia Windhoek Zagreb"
)
JOBS = _words(
    "architect barber botanist cashier cook dentist driver electrician florist geologist glazier journalist mechanic "
    "midwife optician painter porter potter roofer tailor tutor welder"
)
THINGS = _words(
    "acorns badges bolts bricks buckets candles carrots chairs eggs envelopes feathers lemons magnets maps mugs nails "
    "onions peanuts pebbles plates postcards radishes ribbons ropes spoons tiles tulips walnuts"
)
HOLDERS = _words("barrels bins cartons cases chests drums hampers pallets racks sacks tins tubs")
GOODS = _words(
    "bicycle pump;camping stove;chess set;desk fan;drill bit;electric kettle;garden hose;hand mixer;ink cartridge;"
    "leather belt;paper lantern;picture frame;rain jacket;shower curtain;sleeping bag;steel ladder;tea towel;"
    "tennis racket;toolbox;wall clock;wool blanket",
    at=";",
)
SUBJECTS = _words(
    "annual audit;blood drive;board election;budget hearing;choir practice;design review;fire drill;garden party;"
    "hiring panel;poster session;quiz night;release meeting;site visit;street market;wine tasting;yoga class",
    at=";",
)
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
